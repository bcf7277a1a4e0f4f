"""Which region of a file of masks is meant: ``file.dcm:NAME`` or ``file.dcm:NUMBER``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kety.errors import KetyError


@dataclass(frozen=True)
class Region:
    """A segment or region of interest: its number in the file, and its name."""

    number: int
    name: str

    @property
    def words(self) -> str:
        """Number and name, for messages."""
        return f"{self.number} ({self.name})" if self.name else str(self.number)


def choose(regions: Sequence[Region], wanted: str | None, name: str, kind: str) -> Region:
    """The region that is asked for, or the only one.

    Parameters
    ----------
    regions
        Those of the file.
    wanted
        A name, in any case of letters, or a number; None for the only one.
    name, kind
        What to call the file, and what it holds, in messages.

    Raises
    ------
    KetyError
        If there is none, or not exactly one, that fits; the message lists what there is.
    """
    listed = ", ".join(region.words for region in regions)
    if not regions:
        raise KetyError(f"{name}: holds no {kind}")
    if wanted is None:
        if len(regions) > 1:
            raise KetyError(
                f"{name}: holds {len(regions)} {kind}s: {listed}; choose one by its name or "
                f"number, e.g. {name}:{regions[0].name or regions[0].number}"
            )
        return regions[0]
    tests = (
        lambda region: region.name == wanted,
        lambda region: region.name.strip().lower() == wanted.strip().lower(),
        lambda region: str(region.number) == wanted.strip(),
    )
    for fits in tests:
        found = [region for region in regions if fits(region)]
        if len(found) > 1:
            raise KetyError(
                f"{name}: {len(found)} {kind}s are called {wanted!r}; choose by number: {listed}"
            )
        if found:
            return found[0]
    raise KetyError(f"{name}: holds no {kind} {wanted!r}; it holds {listed}")
