"""What a comparison holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from kety.comparison.agreement import Agreement, Interval
from kety.comparison.differences import Difference
from kety.io import FittedMaps

if TYPE_CHECKING:
    import xarray as xr

    from kety.comparison.repeatability import Limit

Basis = Literal["pairs", "regions", "voxels"]


@dataclass(frozen=True)
class Scores:
    """Changes of single voxels in standard errors, z = (b − a)/sqrt(se_a² + se_b²).

    Attributes
    ----------
    count
        Voxels with a standard error in both studies.
    beyond
        Those with |z| above 1.96; 5 % by chance.
    found
        Those that stand out among all the voxels, Benjamini–Hochberg at 5 %.
    sd
        Standard deviation of z, from the middle two thirds; 1 where nothing changed and the
        standard errors are right.
    """

    count: int
    beyond: int
    found: int
    sd: float


@dataclass(frozen=True, eq=False)
class Pair:
    """Two studies, and the change between them.

    Attributes
    ----------
    label
        What to call the pair.
    a, b
        The fits.
    regions
        Name of a region to its masks in A and in B, one and the same on one grid.
    changes
        ``<name>_change``, ``<name>_change_percent`` of A, ``<name>_z`` on the grid of both; None
        where each has masks of its own.
    transitions
        (7, 7) voxels by status in A (rows) and B; None with masks of its own.
    scores
        Changes of voxels by parameter.
    differences
        In what the fits were not done alike.
    same_series
        Whether both are fits of one series, whose noise they share.
    """

    label: str
    a: FittedMaps
    b: FittedMaps
    regions: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]
    changes: xr.Dataset | None
    transitions: NDArray[np.intp] | None
    scores: Mapping[str, Scores]
    differences: tuple[Difference, ...]
    same_series: bool


@dataclass(frozen=True)
class RegionChange:
    """The change of one parameter in one region of one pair.

    Attributes
    ----------
    pair, region, parameter, units
        Of what.
    voxels_a, voxels_b
        Voxels that count: fitted in both, or in each where the masks are its own.
    inside_a, inside_b
        Voxels of the region.
    mean_a, mean_b, median_a, median_b
        Of the parameter.
    a, b, change
        The statistic in A and in B, and of B less A: of the voxels' changes where they correspond
        (for a mean the difference of both), else the difference of both.
    percent
        Change in % of A; NaN where zero is arbitrary.
    independent
        How many independent voxels those are worth; of the smaller of two masks.
    error, noise_error
        Standard error of the change; that which the voxels' own errors give alone.
    freedom
        Degrees of freedom of the test.
    interval
        95 % interval of the change.
    p, p_adjusted
        Of no change, and corrected for all tests of the comparison.
    exceeds
        Whether the change exceeds its uncertainty: ``p_adjusted`` below 5 %.
    limit
        Largest change that a given repeatability coefficient lets expect, in ``units``; NaN
        without one.
    exceeds_limit
        Whether the change is larger; None without one.
    """

    pair: str
    region: str
    parameter: str
    units: str
    voxels_a: int
    voxels_b: int
    inside_a: int
    inside_b: int
    mean_a: float
    mean_b: float
    median_a: float
    median_b: float
    a: float
    b: float
    change: float
    percent: float
    independent: float
    error: float
    noise_error: float
    freedom: float
    interval: Interval
    p: float
    p_adjusted: float
    exceeds: bool
    limit: float
    exceeds_limit: bool | None


@dataclass(frozen=True, eq=False)
class ParameterAgreement:
    """Agreement of A and B in one parameter, over what ``basis`` names, and the values."""

    parameter: str
    units: str
    basis: Basis
    a: NDArray[np.float64]
    b: NDArray[np.float64]
    figures: Agreement


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `kety.compare` found.

    Attributes
    ----------
    pairs
        The studies with their maps of change.
    rois
        Changes of regions: parameter by parameter, region by region, pair by pair.
    agreements
        Repeatability and Bland–Altman figures, for each parameter and basis: ``"pairs"`` (the
        regions of several pairs), ``"regions"`` (those of one pair) or ``"voxels"`` of one pair.
    parameters
        Names of the compared maps.
    statistic, correction
        What was tested, and how the p values were corrected.
    limits
        Repeatability coefficients that were given.
    warnings
        What the reader has to know.
    """

    pairs: tuple[Pair, ...]
    rois: tuple[RegionChange, ...]
    agreements: tuple[ParameterAgreement, ...]
    parameters: tuple[str, ...]
    statistic: str
    correction: str
    limits: Mapping[str, Limit]
    warnings: tuple[str, ...]

    @property
    def maps(self) -> xr.Dataset | None:
        """The maps of change of the first pair."""
        return self.pairs[0].changes

    @property
    def tests(self) -> int:
        """Number of tests that the p values are corrected for."""
        return sum(np.isfinite(row.p) for row in self.rois)
