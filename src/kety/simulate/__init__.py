"""Simulated studies with known truth: a DCE-CT abdomen, acquisition protocols and noise."""

from __future__ import annotations

from kety.simulate.anatomy import TISSUES, Tissue
from kety.simulate.noise import gaussian, rician
from kety.simulate.phantom import LIMITS, Phantom, simulate_abdomen
from kety.simulate.sampling import PROTOCOLS, Protocol, frame_times, protocol, uniform

__all__ = [
    "LIMITS",
    "PROTOCOLS",
    "TISSUES",
    "Phantom",
    "Protocol",
    "Tissue",
    "frame_times",
    "gaussian",
    "protocol",
    "rician",
    "simulate_abdomen",
    "uniform",
]
