"""Arterial input functions: sampled curves, CSV files, masks, population models, found arteries."""

from kety.inputs.agreement import MaskAgreement, compare_masks
from kety.inputs.bolus import Bolus, bolus_of
from kety.inputs.criteria import Candidate, Criterion
from kety.inputs.extraction import ArterialInput, find_artery
from kety.inputs.function import InputFunction
from kety.inputs.gamma import GammaVariate, first_pass
from kety.inputs.population import POPULATION, Population, population_input
from kety.inputs.table import read_times
from kety.inputs.tail import chosen_frames, smoothed, smoothed_tail
from kety.inputs.vein import Vein, corrected_by_vein, find_vein, vein_factor
from kety.inputs.vessel import Vessel

__all__ = [
    "POPULATION",
    "ArterialInput",
    "Bolus",
    "Candidate",
    "Criterion",
    "GammaVariate",
    "InputFunction",
    "MaskAgreement",
    "Population",
    "Vein",
    "Vessel",
    "bolus_of",
    "chosen_frames",
    "compare_masks",
    "corrected_by_vein",
    "find_artery",
    "find_vein",
    "first_pass",
    "population_input",
    "read_times",
    "smoothed",
    "smoothed_tail",
    "vein_factor",
]
