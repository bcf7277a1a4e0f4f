"""Simulated studies with known truth: DCE-CT of abdomen and brain, lesions, protocols, noise."""

from __future__ import annotations

from kety.simulate.anatomy import TISSUES, Tissue
from kety.simulate.brain import BrainPhantom, brain_curves, simulate_brain
from kety.simulate.brain_anatomy import BRAIN_TISSUES
from kety.simulate.brain_maps import BrainTruth, brain_truth
from kety.simulate.layout import as_scanned
from kety.simulate.lesion_layout import Border, Lesion
from kety.simulate.lesion_measures import border_width, contrast_kept, relative_rms, surround
from kety.simulate.lesions import LesionPhantom, simulate_lesions
from kety.simulate.noise import gaussian, rician
from kety.simulate.phantom import LIMITS, Phantom, simulate_abdomen
from kety.simulate.sampling import (
    PROTOCOLS,
    Protocol,
    frame_times,
    noise_of_phases,
    protocol,
    uniform,
)

__all__ = [
    "BRAIN_TISSUES",
    "LIMITS",
    "PROTOCOLS",
    "TISSUES",
    "Border",
    "BrainPhantom",
    "BrainTruth",
    "Lesion",
    "LesionPhantom",
    "Phantom",
    "Protocol",
    "Tissue",
    "as_scanned",
    "border_width",
    "brain_curves",
    "brain_truth",
    "contrast_kept",
    "frame_times",
    "gaussian",
    "noise_of_phases",
    "protocol",
    "relative_rms",
    "rician",
    "simulate_abdomen",
    "simulate_brain",
    "simulate_lesions",
    "surround",
    "uniform",
]
