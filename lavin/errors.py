"""Errors for the person who typed the call: one line that says what came, what was expected and what to do."""

from __future__ import annotations


class LavinError(Exception):
    """Anything that ``lavin`` reports in one line; the command prints it as ``error: ...`` and exits with 2."""


class InputError(LavinError, ValueError):
    """A file, folder, name or number that cannot be used as given."""
