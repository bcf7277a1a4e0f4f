"""Unique identifiers that follow from the content, so that equal content gives equal files."""

from __future__ import annotations

import hashlib
import uuid


def uid_of(identity: bytes, *role: object) -> str:
    """A unique identifier of the kind that needs no registration (PS3.5, B.2), made from a digest.

    Parameters
    ----------
    identity
        A digest of everything that the objects hold.
    role
        Which of their identifiers it is.
    """
    digest = hashlib.sha256(identity + repr(role).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"
