"""DICOM's dates and times as microseconds.

Value representations DA, TM and DT of PS3.5, section 6.2. Whole numbers of microseconds keep the
fractions exact, which seconds since 1970 in double precision do not.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final, NamedTuple

MICROSECONDS: Final = 1_000_000
_DAY: Final = 86_400 * MICROSECONDS

_DATE: Final = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:[.,](\d{1,6}))?)?)?")
_DATETIME: Final = re.compile(r"(\d{4})(\d{2})(\d{2})(\d{2}[\d.]*)([+-]\d{4})?")


class Moment(NamedTuple):
    """A point in time, and whether it counts in UTC or in an unknown local time."""

    microseconds: int
    utc: bool


def day_time(day: str, time: str, zone: str = "") -> Moment | None:
    """The moment of a DA and a TM, the day 0 without a DA; None if either cannot be read.

    ``zone`` is the offset from UTC that the file states, such as ``+0100``.
    """
    clock = _time_of_day(time)
    start = _day(day) if day.strip() else 0
    if clock is None or start is None:
        return None
    return _moment(start + clock, zone)


def datetime(value: str, zone: str = "") -> Moment | None:
    """The moment of a DT of at least an hour's precision; its own offset is before ``zone``."""
    match = _DATETIME.fullmatch(value.strip())
    if match is None:
        return None
    start, clock = _day("".join(match.groups()[:3])), _time_of_day(match[4])
    if start is None or clock is None:
        return None
    return _moment(start + clock, match[5] or zone)


def _moment(local: int, zone: str) -> Moment:
    match = re.fullmatch(r"([+-])(\d{2})(\d{2})", zone.strip())
    if match is None:
        return Moment(local, False)
    offset = (int(match[2]) * 60 + int(match[3])) * 60 * MICROSECONDS
    return Moment(local - offset if match[1] == "+" else local + offset, True)


def _day(value: str) -> int | None:
    match = _DATE.fullmatch(value.strip())
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).toordinal() * _DAY
    except ValueError:
        return None


def _time_of_day(value: str) -> int | None:
    match = _TIME.fullmatch(value.strip())
    if match is None:
        return None
    hours, minutes, seconds = (int(part or 0) for part in match.groups()[:3])
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    fraction = int((match[4] or "").ljust(6, "0"))
    return ((hours * 60 + minutes) * 60 + seconds) * MICROSECONDS + fraction
