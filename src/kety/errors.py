"""The errors that kety raises for input it cannot use."""


class KetyError(ValueError):
    """Input that kety cannot use; the message says what was found, expected and what to do."""


class MissingDependencyError(KetyError, ImportError):
    """An optional library is needed and not installed; the message names the extra to install."""
