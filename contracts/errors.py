"""The error tree of mdrec.

MdrecError            everything mdrec raises on purpose: one line, and a hint that says what to do
├── BadInput          the caller's data or arguments are wrong (command exit code 2)
└── WorkFailed        the work itself failed (command exit code 1)
    └── BundleError   a bundle on disk is missing, truncated or altered
"""

from __future__ import annotations


class MdrecError(Exception):
    """A failure with one line for a person and a hint towards the remedy."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadInput(MdrecError):
    """The input names a field, file or value that cannot be used."""

    exit_code = 2


class WorkFailed(MdrecError):
    """The input was fine, the work was not."""


class BundleError(WorkFailed):
    """A bundle is missing, incomplete or does not match its manifest."""
