"""Maps that need no kinetic model: descriptions of the curves, and deconvolution."""

from kety.modelfree.deconvolution import deconvolve
from kety.modelfree.descriptive import semiquantitative

__all__ = ["deconvolve", "semiquantitative"]
