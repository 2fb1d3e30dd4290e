"""The one error type for comparisons that cannot be made."""

from __future__ import annotations


class ComparisonError(ValueError):
    """A grid, a cell or a set of results is not what a comparison needs.

    The message is one sentence or two: what was expected, what was found, what to do.
    """
