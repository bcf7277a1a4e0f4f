"""Every number that the paper states, with its place, and what it leaves open.

Romain, Letort, Lucidarme, Rouet, d'Alché-Buc: multi-task learning for the parameters of
compartment models in DCE-CT of abdominal tumours. See `SOURCE` for the reference.
"""

from __future__ import annotations

from typing import Final

from kety.studies.optimization.paper import Stated

TITLE: Final = "Joint estimation over voxels"
REFERENCE: Final = (
    "B. Romain, V. Letort, O. Lucidarme, L. Rouet, F. d’Alché-Buc: A Multi-task Learning Approach "
    "for Compartmental Model Parameter Estimation in DCE-CT Sequences. MICCAI 2013, Part II, LNCS "
    "8150, doi:10.1007/978-3-642-40763-5_34 (not verified, see the notes)"
)
LINK: Final = "https://doi.org/10.1007/978-3-642-40763-5_34"
SOURCE: Final = (
    "The text of the paper that this study follows has neither title nor authors. Its reference 11 "
    "names Romain, Letort, Lucidarme, d’Alché-Buc and Rouet for the authors' registration; the "
    "rest of the reference given here fits it but was not checked against the publisher's page."
)

# 4.1: the synthetic sequences.
GRID: Final = (6, 6)
FRAMES: Final = 66
INTERVALS: Final = (2.5, 10.0)
"""Shortest and longest time between frames, s."""
REGIONS: Final = 3
TISSUES: Final = 2
SIGMA: Final = 0.01
"""Of a “zero-mean gaussian white noise of local variance (σ = 0.01)”."""
READINGS: Final = {"standard deviation": 0.01, "variance": 0.1}
"""What `SIGMA` is taken for, to the standard deviation that follows."""
INSTANCES: Final = 50
STRENGTH: Final = 1e5
"""λ at the least error “for all the tested estimation approaches” (figure 1)."""
PARAMETERS: Final = ("θ1", "θ2")
METHODS: Final = {
    "E": "voxelwise",
    "SE": "joint, spatial similarity",
    "TE": "joint, temporal similarity",
}

# 4.2: the real sequences.
PATIENTS: Final = 5
DURATION: Final = 300.0
"""About 5 minutes of free breathing, s."""
CLASSES: Final = 3
"""Parameter classes of the segmentation whose connected regions are counted."""
ARTIFACT: Final = 2
"""Pixels up to which a region is an artefact."""
ROIS: Final = (
    "border of the left kidney",
    "top of the left kidney",
    "border of the right kidney and border of the tumour",
    "tumour at the border of the left kidney",
    "tumour in the liver, hardly perfused",
)
"""What the five patients' regions of interest are."""


def _improvement(parameter: str, what: str, value: float) -> Stated:
    # Of what the figures are per cent, the text does not say; see `OPEN`.
    name = f"{parameter}, improvement of the {what} of the relative error by joint estimation"
    return Stated("4.1, text of figure 2", f"{name} (paper: about)", "%", value)


def _count(method: str, what: str, value: float) -> Stated:
    return Stated("4.2, text", f"{METHODS[method]}, {what}, mean of 5 patients", "", value)


CLAIMS: Final = {
    "strength": Stated("Figure 1, text", "λ of the least squared error", "", STRENGTH),
    "theta1_variance": _improvement("θ1", "variance", 0.2),
    "theta1_mean": _improvement("θ1", "mean", 1.0),
    "theta2_variance": _improvement("θ2", "variance", 1.0),
    "theta2_mean": _improvement("θ2", "mean", 5.0),
    "regions_E": _count("E", "regions", 22.6),
    "regions_SE": _count("SE", "regions", 8.6),
    "regions_TE": _count("TE", "regions", 7.0),
    "artifacts_SE": _count("SE", "artefacts of 1 or 2 pixels", 5.2),
    "artifacts_TE": _count("TE", "artefacts of 1 or 2 pixels", 4.0),
}
"""The paper's results, those in figures without a number in the text left out."""

STATEMENTS: Final = {
    "variance": "Joint estimation reduces the variance of the error in all cases, spatial or "
    "temporal (figure 2).",
    "temporal": "The temporal similarity is more accurate than the spatial one (figure 2).",
    "second": "θ2 gains more than θ1, whose voxelwise estimate is already accurate (figure 2).",
    "strength": "One λ is best for all approaches (figure 1).",
    "regions": "Joint estimation leaves fewer regions, the temporal similarity the fewest.",
    "entropy": "γ at the inverse of the variance of the distances is where the entropy of the Gram "
    "matrix is largest.",
    "sparse": "W can be cut to its largest weights, made binary, and used on large images.",
}
"""What the paper claims in words."""

OPEN: Final = (
    "Noise: “local variance (σ = 0.01)” may be a standard deviation of 0.01 or a variance of 0.01, "
    "a standard deviation of 0.1. Both are simulated.",
    "The arterial input is a patient's and not published, nor is its unit, to which the noise is "
    "relative. Here it is a simulated bolus in hundreds of HU.",
    "θ of the two tissues, the bounds θmax and the layout of the three regions are not given. Here "
    "two regions of one tissue lie on either side of the third.",
    "Units: θ is in 1/s by equation 6 with times in seconds, but that is not said. λ weighs ‖θ‖² "
    "against squared intensities, so λ = 10⁵ means nothing without the units of both; at θ per "
    "minute it is 3600 times as strong. One λ also serves θ1 and θ2 alike.",
    "γ is “the inverse of the empirical variance of the distance”: of the distance or its square, "
    "over all pairs or without the diagonal, is open. A variance of distances does not have the "
    "role of a squared length: it is small where all distances are large and alike.",
    "That γ maximises “the Gram matrix entropies” comes without their definition.",
    "The length of the Gaussian kernel k over time, which decides what counts as similar, is not "
    "given.",
    "β is chosen by generalised cross-validation in every voxel. Two voxels with different β then "
    "differ in h even where their curves are alike.",
    "Improvements of “0.2 % in variance and 1 % in average” may be differences of relative errors "
    "in per cent, or relative to the voxelwise error; the variance is over a sequence's voxels.",
    "The error by which λ is chosen sums squared errors of θ1 and θ2, so the larger parameter "
    "decides; and it needs the truth, which no patient has.",
    "Real sequences were registered and denoised by a discrete cosine transform in time before "
    "estimation, at a resolution that is not given.",
    "Regions are counted after a threshold into 3 classes; thresholds and connectivity (4 or 8 "
    "neighbours) are not given, nor on which of the two parameters.",
)
"""Where the paper admits more than one reading."""
