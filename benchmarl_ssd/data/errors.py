"""The one error type for data that cannot be used."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset, or what was asked of it, is unusable.

    The message is one sentence or two: what was expected, what was found, what to do.
    """
