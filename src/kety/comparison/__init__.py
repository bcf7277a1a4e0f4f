"""Two studies of one patient: what changed, how sure that is, and how well they repeat."""

from kety.comparison.agreement import Agreement, agreement
from kety.comparison.comparing import compare
from kety.comparison.records import Comparison, Pair, ParameterAgreement, RegionChange
from kety.comparison.repeatability import Limit, limits_of

__all__ = [
    "Agreement",
    "Comparison",
    "Limit",
    "Pair",
    "ParameterAgreement",
    "RegionChange",
    "agreement",
    "compare",
    "limits_of",
]
