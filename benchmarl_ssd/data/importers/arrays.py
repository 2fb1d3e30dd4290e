"""Reads anyone's arrays: an npz or HDF5 file and a mapping of its names to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers import hdf5, npz
from benchmarl_ssd.data.importers.columns import Column, stack_agents
from benchmarl_ssd.data.importers.files import reading, source_file
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.table import Table
from benchmarl_ssd.data.metadata import FORMAT

QUANTITIES = {
    "observations": "observation",
    "actions": "action",
    "rewards": "reward",
    "terminations": "terminated",
    "truncations": "truncated",
    "episodes": "episode",
    "state": "state",
    "action_masks": "action_mask",
    "next_observations": "next_observation",
    "next_state": "next_state",
    "next_action_masks": "next_action_mask",
}
"""What a mapping may name, and our column for it."""

_ENDS = ("terminations", "truncations", "episodes")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Args:
        path: the file; one line per quantity, ``observations: obs``, or a list with one name per
            agent, ``observations: [obs_0, obs_1]``.

    Raises:
        DatasetError: if it is no such file.
    """
    source_file(path)
    try:
        with reading(path):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DatasetError(
            f"expected YAML in {path}, found something else ({' '.join(str(error).split())}); "
            "write one line per quantity, such as `observations: obs`"
        ) from None
    return check_mapping(content, str(path))


def check_mapping(content: Any, where: str) -> dict[str, Any]:
    """Check a mapping.

    Args:
        content: the source's name, or a list of one name per agent, of each quantity.
        where: what errors call it.

    Raises:
        DatasetError: if it names an unknown quantity, or gives something else than names.

    Example:
        >>> check_mapping({"observations": ["obs_0", "obs_1"]}, "mapping")
        {'observations': ['obs_0', 'obs_1']}
    """
    if not isinstance(content, Mapping) or not content:
        raise DatasetError(
            f"expected lines such as `observations: obs` in {where}, found "
            f"{type(content).__name__}; name the source's arrays"
        )
    for key, value in content.items():
        listed = value if isinstance(value, list) and value else [value]
        if key not in QUANTITIES or not all(isinstance(name, str) and name for name in listed):
            raise DatasetError(
                f"expected names of arrays for {', '.join(QUANTITIES)} in {where}, found "
                f"{key!r}: {value!r}; correct the mapping"
            )
    return dict(content)


@contextmanager
def open_arrays(source: Path, options: ImportOptions) -> Iterator[Table]:
    """Open an npz or HDF5 file with arrays ``[T, n, ...]`` in time order.

    Args:
        source: the file.
        options: of the import; without a mapping the arrays have our names (``observations``,
            ``actions``, ``rewards``, ...), and those that are there are read.

    Raises:
        DatasetError: if an array is missing, of a wrong shape, or could only be read by pickle.
        ImportError: if it is HDF5 and h5py is not installed.
    """
    source_file(source)
    with source.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    opened: Any = npz.open_npz(source) if zipped else hdf5.open_hdf5(source)
    with opened as archive:
        found = npz.names(archive) if zipped else hdf5.names(archive)
        if not zipped and archive.attrs.get("format") == FORMAT and options.mapping is None:
            raise DatasetError(
                f"expected arrays of your own in {source}, found a dataset that "
                "`benchmarl-ssd export` wrote; import it by `benchmarl-ssd import hdf5`"
            )
        mapping = options.mapping
        if mapping is None:
            mapping = {name: name for name in QUANTITIES if name in found}

        def column(name: str) -> Column:
            return (npz.NpzColumn if zipped else hdf5.Hdf5Column)(archive, source, name)

        table = mapped_table(check_mapping(mapping or {"observations": "observations"}, "mapping"),
                             column, options)  # fmt: skip
        table.notes |= {"file": source.name, "mapping": dict(mapping)}
        yield table


def mapped_table(
    mapping: Mapping[str, Any], column: Callable[[str], Column], options: ImportOptions
) -> Table:
    """Make a table of a mapping.

    Args:
        mapping: the source's names, by quantity.
        column: gives the column of a name.
        options: of the import.

    Raises:
        DatasetError: if a column is missing, or nothing says where episodes end.
    """
    columns: dict[str, Column] = {}
    for quantity, names in mapping.items():
        if quantity.endswith("state") and not options.state:
            continue
        listed = names if isinstance(names, list) else [names]
        if isinstance(names, list):
            columns[QUANTITIES[quantity]] = stack_agents([column(name) for name in listed])
        else:
            columns[QUANTITIES[quantity]] = column(names)
    if not any(quantity in mapping for quantity in _ENDS) and options.episode_length is None:
        raise DatasetError(
            f"expected one of {', '.join(_ENDS)}, or a time limit, found none of them; say where "
            "episodes end, or give --episode-length"
        )
    return Table(columns, options.episode_length)
