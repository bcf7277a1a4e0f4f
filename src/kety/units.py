"""Canonical units and the named factors between them.

Times are in s everywhere. Public rates are in 1/min, kernel rates in 1/s; the conversion happens
once, at the boundary, by the factors named here.
"""

SECONDS_PER_MINUTE = 60.0
MILLISECONDS_PER_SECOND = 1000.0
PER_100ML = 100.0
"""Flows are in mL/100mL/min: mL for 100 mL of tissue."""
