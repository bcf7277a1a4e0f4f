"""From measured signal to what the models fit: enhancement in HU or concentration in mM."""

from kety.signal.baseline import Frames, baseline_frames, enhancing_curve, resolve_frames
from kety.signal.ct import (
    IodineCalibration,
    above_baseline,
    enhancement,
    given_calibration,
    iodine_calibration,
)
from kety.signal.mri import (
    CONVERSION_SENTENCES,
    Concentration,
    ConversionStatus,
    T1Map,
    concentration_from_signal,
    signal_from_concentration,
    t1_from_flip_angles,
)
from kety.signal.noise import CTNoise, frame_noise, noise_weights
from kety.signal.onset import onset_delay
from kety.signal.spgr import spgr_signal
from kety.signal.vfa import T1_SENTENCES, T1Status

__all__ = [
    "CONVERSION_SENTENCES",
    "T1_SENTENCES",
    "CTNoise",
    "Concentration",
    "ConversionStatus",
    "Frames",
    "IodineCalibration",
    "T1Map",
    "T1Status",
    "above_baseline",
    "baseline_frames",
    "concentration_from_signal",
    "enhancement",
    "enhancing_curve",
    "frame_noise",
    "given_calibration",
    "iodine_calibration",
    "noise_weights",
    "onset_delay",
    "resolve_frames",
    "signal_from_concentration",
    "spgr_signal",
    "t1_from_flip_angles",
]
