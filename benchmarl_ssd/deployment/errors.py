"""The error type for policies that cannot be exported."""

from __future__ import annotations


class ExportError(ValueError):
    """A policy cannot be exported, or what was written does not act as it does.

    The message is one sentence or two: what was expected, what was found, what to do.
    """
