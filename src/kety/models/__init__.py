"""Compartment models. `MODELS` is the one list; a new model is a file here and a line in it."""

from __future__ import annotations

from kety.errors import KetyError
from kety.models.base import ROLES, Derived, Group, Model, Parameter, Terms, program_of, recorded
from kety.models.dual_input import (
    DUAL_INPUT_EXTENDED_TOFTS,
    DUAL_INPUT_ONE_COMPARTMENT,
    DUAL_INPUT_TWO_COMPARTMENT,
)
from kety.models.exchange import TWO_COMPARTMENT_EXCHANGE, TWO_COMPARTMENT_UPTAKE
from kety.models.ode import OdeModel
from kety.models.one_compartment import ONE_COMPARTMENT
from kety.models.tissue_homogeneity import TISSUE_HOMOGENEITY
from kety.models.tofts import EXTENDED_TOFTS, PATLAK, TOFTS

MODELS: dict[str, Model] = {
    m.name: m
    for m in (
        TOFTS,
        EXTENDED_TOFTS,
        PATLAK,
        ONE_COMPARTMENT,
        TWO_COMPARTMENT_EXCHANGE,
        TWO_COMPARTMENT_UPTAKE,
        TISSUE_HOMOGENEITY,
        DUAL_INPUT_EXTENDED_TOFTS,
        DUAL_INPUT_ONE_COMPARTMENT,
        DUAL_INPUT_TWO_COMPARTMENT,
    )
}


def get_model(name: str | Model) -> Model:
    """The model of that name; a `Model`, such as an `OdeModel`, is returned as it is.

    Raises
    ------
    KetyError
        If there is none; the message lists the valid names.
    """
    if isinstance(name, Model):
        return name
    try:
        return MODELS[name]
    except (KeyError, TypeError):
        known = ", ".join(MODELS)
        raise KetyError(f"unknown model {name!r}; the models are: {known}") from None


__all__ = [
    "MODELS",
    "ROLES",
    "Derived",
    "Group",
    "Model",
    "OdeModel",
    "Parameter",
    "Terms",
    "get_model",
    "program_of",
    "recorded",
]
