"""Telling patients apart, and leaving them out of what is shown."""

from __future__ import annotations

import hashlib
import re

Words = set[str]
"""Parts of patients' names and identifiers, lower case."""


def patient_digest(identifier: str, name: str, born: str) -> str:
    """Stands for a patient: for the identifier, or where there is none the name and birth date."""
    parts = [identifier] if identifier else [name, born]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def patient_words(identifier: str, name: str) -> Words:
    """The parts of a name and identifier that must not be shown.

    Of three letters at least, or of two in scripts where names are as short.
    """
    parts = re.split(r"[\s^=_.,\\/-]+", f"{name} {identifier}".lower())
    return {part for part in parts if len(part) > (2 if part.isascii() else 1)}


def without_words(text: str, words: Words) -> str:
    """A text in which the words are replaced by dots."""
    for word in sorted(words, key=len, reverse=True):
        # Not every script has spaces between words.
        whole = r"(?<![^\W_]){}(?![^\W_])" if word.isascii() else "{}"
        text = re.sub(whole.format(re.escape(word)), "…", text, flags=re.IGNORECASE)
    return text
