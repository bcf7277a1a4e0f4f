"""The solvers on an NVIDIA card: the core's own headers, compiled at run time for one lane."""

from kety.fitting.cuda.card import Card, card_or_reason, find_card

__all__ = ["Card", "card_or_reason", "find_card"]
