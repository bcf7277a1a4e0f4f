"""Simulated studies with known truth: DCE-CT of abdomen and brain, protocols and noise."""

from __future__ import annotations

from kety.simulate.anatomy import TISSUES, Tissue
from kety.simulate.brain import BrainPhantom, brain_curves, simulate_brain
from kety.simulate.brain_anatomy import BRAIN_TISSUES
from kety.simulate.brain_maps import BrainTruth, brain_truth
from kety.simulate.noise import gaussian, rician
from kety.simulate.phantom import LIMITS, Phantom, simulate_abdomen
from kety.simulate.sampling import PROTOCOLS, Protocol, frame_times, protocol, uniform

__all__ = [
    "BRAIN_TISSUES",
    "LIMITS",
    "PROTOCOLS",
    "TISSUES",
    "BrainPhantom",
    "BrainTruth",
    "Phantom",
    "Protocol",
    "Tissue",
    "brain_curves",
    "brain_truth",
    "frame_times",
    "gaussian",
    "protocol",
    "rician",
    "simulate_abdomen",
    "simulate_brain",
    "uniform",
]
