"""From measured signal to what the models fit: enhancement in HU or concentration in mM."""

from kety.signal.baseline import Frames, baseline_frames, enhancing_curve, resolve_frames
from kety.signal.ct import enhancement
from kety.signal.mri import (
    CONVERSION_SENTENCES,
    Concentration,
    ConversionStatus,
    T1Map,
    concentration_from_signal,
    signal_from_concentration,
    t1_from_flip_angles,
)
from kety.signal.onset import onset_delay
from kety.signal.spgr import spgr_signal
from kety.signal.vfa import T1_SENTENCES, T1Status

__all__ = [
    "CONVERSION_SENTENCES",
    "T1_SENTENCES",
    "Concentration",
    "ConversionStatus",
    "Frames",
    "T1Map",
    "T1Status",
    "baseline_frames",
    "concentration_from_signal",
    "enhancement",
    "enhancing_curve",
    "onset_delay",
    "resolve_frames",
    "signal_from_concentration",
    "spgr_signal",
    "t1_from_flip_angles",
]
