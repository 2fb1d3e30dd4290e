"""Grids of runs, and reports on their results."""

from benchmarl_ssd.comparison.errors import ComparisonError

__all__ = ["ComparisonError"]
