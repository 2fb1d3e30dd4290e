"""Errors that BenchMARL's command line prints as one line."""

from hydra.errors import CompactHydraException

from benchmarl_ssd.data import DatasetError


class OfflineRunError(DatasetError, CompactHydraException):
    """A run cannot start: its dataset or an option does not fit.

    A ``ValueError`` for Python users; Hydra prints its message without a traceback.
    """
