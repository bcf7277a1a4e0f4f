"""Shared fixtures: where other groups' reference data lie, and how a test skips without them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
REFERENCE = Path(
    os.environ.get("KETY_REFERENCE_DATA", CHECKOUT.parent / "shared" / "reference")
).resolve()


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Path]:
    """Return ``folder(case)``; the test is skipped, with the reason, where the case is absent."""

    def folder(case: str) -> Path:
        path = REFERENCE / case
        if not path.is_dir():
            pytest.skip(f"no reference data at {path}; set KETY_REFERENCE_DATA to its folder")
        return path

    return folder
