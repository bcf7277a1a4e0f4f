"""Arterial input functions: sampled curves, CSV files, masks and population models."""

from kety.inputs.function import InputFunction
from kety.inputs.population import POPULATION, Population, population_input
from kety.inputs.table import read_times

__all__ = ["POPULATION", "InputFunction", "Population", "population_input", "read_times"]
