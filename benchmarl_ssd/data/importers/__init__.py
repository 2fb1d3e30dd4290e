"""Importing datasets of others: one module per format, one way into ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.arrays import open_arrays
from benchmarl_ssd.data.importers.bounds import ImportBounds
from benchmarl_ssd.data.importers.columns import Column
from benchmarl_ssd.data.importers.episodes import LastStep
from benchmarl_ssd.data.importers.exported import import_exported
from benchmarl_ssd.data.importers.madiff import open_madiff
from benchmarl_ssd.data.importers.memory import from_arrays
from benchmarl_ssd.data.importers.omar import open_omar
from benchmarl_ssd.data.importers.omiga import open_omiga
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.streaming import write_table
from benchmarl_ssd.data.importers.table import Table
from benchmarl_ssd.data.importers.vault import open_vault

__all__ = [
    "FORMATS",
    "Column",
    "DatasetError",
    "ImportBounds",
    "ImportOptions",
    "LastStep",
    "Table",
    "from_arrays",
    "import_exported",
    "open_source",
    "write_table",
]

FORMATS: Mapping[str, Callable[[Path, ImportOptions], AbstractContextManager[Table]]] = {
    "omar": open_omar,
    "madiff": open_madiff,
    "omiga": open_omiga,
    "vault": open_vault,
    "arrays": open_arrays,
}
"""What opens a source of each format."""


def open_source(
    format: str, source: str | os.PathLike[str], options: ImportOptions | None = None
) -> AbstractContextManager[Table]:
    """Open a source for reading; nothing is written to it.

    Args:
        format: one of :data:`FORMATS`.
        source: a folder or file, as the format has it.
        options: what else the user says about it.

    Returns:
        A context that gives the source's :class:`~benchmarl_ssd.data.importers.table.Table`.

    Raises:
        DatasetError: if there is no such format; in the context, if the source is none.

    Example:
        >>> import numpy as np, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.savez(folder / "log.npz", observations=np.zeros((6, 2, 3)),
        ...          actions=np.zeros((6, 2, 1)), rewards=np.ones(6), episodes=[0, 0, 0, 1, 1, 1])
        >>> with open_source("arrays", folder / "log.npz") as table:
        ...     metadata = write_table(table, folder / "dataset", last_step="repeat")
        >>> metadata.counts["episodes"], metadata.episode_return["mean"]
        (2, 3.0)
    """
    if format not in FORMATS:
        raise DatasetError(
            f"expected a format of {', '.join(FORMATS)}, found {format!r}; choose one of these"
        )
    return FORMATS[format](Path(source), options or ImportOptions())
