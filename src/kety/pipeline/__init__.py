"""The road from files to maps and a report: `read_study`, `estimate`, `write_outcome`.

These are the steps of ``kety fit``, as plain functions. Each takes ``tell``, a function of a label
and a text that is given a line about every step.
"""

from kety.pipeline.arterial import InputSource
from kety.pipeline.certainty import Certainty
from kety.pipeline.conversion import RELAXIVITY, Conversion
from kety.pipeline.modelfree import describe
from kety.pipeline.outcome import Written, check_folder, estimate, write_outcome
from kety.pipeline.phantom import Agreement, TruthRow, against_truth, write_phantom
from kety.pipeline.provenance import provenance
from kety.pipeline.study import QUANTITIES, Study, read_study

__all__ = [
    "QUANTITIES",
    "RELAXIVITY",
    "Agreement",
    "Certainty",
    "Conversion",
    "InputSource",
    "Study",
    "TruthRow",
    "Written",
    "against_truth",
    "check_folder",
    "describe",
    "estimate",
    "provenance",
    "read_study",
    "write_outcome",
    "write_phantom",
]
