"""Where a fit is computed: on the processor or on a card."""

from __future__ import annotations

from dataclasses import replace

from kety.errors import KetyError
from kety.fitting.optimizers import DifferentialEvolution, NelderMead, Optimizer, VarProLM
from kety.fitting.problem import Problem


def placed(problem: Problem, options: VarProLM | Optimizer, device: str) -> tuple[Problem, str]:
    """The problem with its card, if any, and how the device is recorded.

    ``device`` is ``"cpu"``, ``"cuda"`` or ``"auto"``, which takes a card that serves the fit where
    there is one.

    Raises
    ------
    KetyError
        If the device is unknown, or ``"cuda"`` and there is no card or none that serves the fit.
    """
    if device == "cpu":
        return problem, "cpu"
    from kety.fitting.cuda import card_or_reason

    card, where = card_or_reason(device)
    if card is None:
        return problem, where
    beyond = _beyond_cards(problem, options)
    if not beyond:
        return replace(problem, card=card), where
    if device == "cuda":
        raise KetyError(f"{beyond}; take device 'cpu', or 'auto'")
    return problem, f"cpu ({beyond})"


def _beyond_cards(problem: Problem, options: VarProLM | Optimizer) -> str:
    """Why a fit cannot run on a card; empty where it can."""
    if problem.by_ode:
        return f"models of differential equations run on the processor, found {problem.model.name}"
    if isinstance(options, VarProLM):
        return ""
    if isinstance(options, NelderMead | DifferentialEvolution) and options.backend == "native":
        return ""
    return (
        "only the default solver and native Nelder-Mead and differential evolution run on a card, "
        f"found {type(options).__name__}"
    )
