"""Reads flashbax Vaults, as OG-MARL distributes its datasets (Formanek et al., 2024), without JAX.

A Vault's folder holds ``metadata.json`` and an OCDBT database of zarr v2 arrays, one per leaf, each
``[1, 10^13, ...]``: how much of the time axis is real stands in ``vault_index``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.importers.columns import Column
from benchmarl_ssd.data.importers.files import check_expansion, reading, source_file, source_folder
from benchmarl_ssd.data.importers.options import ImportOptions
from benchmarl_ssd.data.importers.table import Table

LEAVES = {
    "observation": "observations",
    "action": "actions",
    "reward": "rewards",
    "terminated": "terminals",
    "truncated": "truncations",
    "state": "infos.state",
    "action_mask": "infos.legals",
}
"""Name of each quantity's leaf."""

_CACHE = 256 * 1024**2
_CHUNK_LIMIT = 1024**3


@contextmanager
def open_vault(source: Path, options: ImportOptions) -> Iterator[Table]:
    """Open a Vault.

    Args:
        source: ``<scenario>.vlt/<uid>``, or ``<scenario>.vlt`` if it has only one of these.
        options: of the import.

    Raises:
        DatasetError: if it is no Vault, a leaf is missing, or of a wrong shape.
        ImportError: if tensorstore is not installed.
    """
    folder = _vault_folder(source_folder(source, "a Vault's folder <scenario>.vlt/<uid>"))
    leaves = _read_metadata(folder)
    store = _Store(folder)
    rows = _read_index(store)
    columns: dict[str, Column] = {}
    for name, leaf in LEAVES.items():
        optional = name in ("state", "action_mask", "truncated")
        if (optional and leaf not in leaves) or (name == "state" and not options.state):
            continue
        if leaf not in leaves:
            raise DatasetError(
                f"expected {leaf} in the Vault {folder}, found {', '.join(sorted(leaves))}; "
                "it holds no transitions of agents"
            )
        columns[name] = VaultColumn(store, leaf, leaves[leaf], rows)
    expanded = rows * sum(math.prod(c.shape[1:]) * c.dtype.itemsize for c in columns.values())
    check_expansion(folder, store.bytes, expanded)
    yield Table(columns, options.episode_length, {"vault": f"{folder.parent.name}/{folder.name}"})


def _vault_folder(source: Path) -> Path:
    if (source / "metadata.json").exists() or (source / "manifest.ocdbt").exists():
        return source
    inner = sorted(path for path in source.iterdir() if (path / "metadata.json").exists())
    if len(inner) != 1:
        raise DatasetError(
            f"expected metadata.json in {source}, or one folder that has it, found "
            f"{', '.join(path.name for path in inner) or 'none'}; name the Vault to import"
        )
    return inner[0]


def _read_metadata(folder: Path) -> dict[str, tuple[str, str]]:
    """Give shape and dtype, as written, of each leaf."""
    path = source_file(folder / "metadata.json", folder)
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8"))
    entries = [content.get(f"structure_{what}") if isinstance(content, dict) else None
               for what in ("shape", "dtype")]  # fmt: skip
    shapes, dtypes = (_flatten(e) if isinstance(e, Mapping) else {} for e in entries)
    if not shapes or shapes.keys() != dtypes.keys():
        raise DatasetError(
            f"expected structure_shape and structure_dtype of the same leaves in {path}, found "
            f"{', '.join(sorted(shapes)) or 'none'} and {', '.join(sorted(dtypes)) or 'none'}; "
            "the Vault is damaged: copy it again"
        )
    version = content.get("version")
    if not isinstance(version, int | float) or int(version) != 1:
        raise DatasetError(
            f"expected a Vault of version 1, found {version!r} in {path}; convert it with flashbax"
        )
    return {name: (str(shapes[name]), str(dtypes[name])) for name in shapes}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


class _Store:
    """The database of a Vault."""

    def __init__(self, folder: Path) -> None:
        try:
            import tensorstore
        except ImportError as error:
            raise ImportError(
                f"expected tensorstore for Vaults, found none ({error}); "
                "pip install 'benchmarl-ssd[vault]'"
            ) from None
        if not (folder / "manifest.ocdbt").exists():
            raise DatasetError(
                f"expected an OCDBT database (manifest.ocdbt) in {folder}, found none; "
                "it is no Vault of flashbax, or stored by another driver"
            )
        self.folder, self.bytes = folder, 0
        for parent, folders, files in os.walk(folder):
            if any(Path(parent, name).is_symlink() for name in folders):
                raise DatasetError(
                    f"expected a Vault's own folders in {parent}, found a link; copy it with its "
                    "contents"
                )
            for name in files:
                self.bytes += source_file(Path(parent, name), folder).stat().st_size
        self._tensorstore = tensorstore
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE}})

    def open(self, path: str) -> Any:
        """Open one array for reading; ``path`` is its name in the database."""
        spec = {
            "driver": "zarr",
            "kvstore": {
                "driver": "ocdbt",
                "base": {"driver": "file", "path": f"{self.folder.resolve()}/"},
                "path": path,
            },
        }
        with reading(self.folder):
            array = self._tensorstore.open(
                spec, open=True, read=True, write=False, context=self._context
            ).result()
        shape: Any = array.chunk_layout.read_chunk.shape
        if math.prod(shape) * array.dtype.numpy_dtype.itemsize > _CHUNK_LIMIT:
            raise DatasetError(
                f"expected chunks of at most 1 GiB, found {list(shape)} of {path} in "
                f"{self.folder}; rewrite the Vault in smaller chunks"
            )
        return array


def _read_index(store: _Store) -> int:
    array = store.open("vault_index")
    with reading(store.folder):
        values = array.read().result() if tuple(array.shape) == (1,) else np.array([0])
    if values.dtype.kind not in "iu" or values[0] < 1:
        raise DatasetError(
            f"expected a vault_index of at least 1 in {store.folder}, found {values[0]} "
            f"({values.dtype}, {list(array.shape)}); the Vault is empty or damaged"
        )
    return int(values[0])


class VaultColumn(Column):
    """A leaf of a Vault, read piece by piece.

    Args:
        store: the Vault's database.
        leaf: the leaf's dotted name.
        said: shape and dtype as metadata.json has them.
        rows: the Vault's length.

    Raises:
        DatasetError: if the array is not the one that metadata.json describes.
    """

    def __init__(self, store: _Store, leaf: str, said: tuple[str, str], rows: int) -> None:
        self._folder = store.folder
        self._array = store.open(f"{leaf}.")
        shape, dtype = tuple(self._array.shape), self._array.dtype.numpy_dtype
        sizes = [part.strip() for part in said[0].strip("() ").split(",") if part.strip()]
        fits = [str(size) for size in shape[2:]] == sizes[2:] and dtype.name == said[1]
        if len(shape) < 2 or shape[0] != 1 or shape[1] < rows or not fits:
            raise DatasetError(
                f"expected leaf {leaf} of shape [1, >= {rows}, ...] and dtype {said[1]} as "
                f"{said[0]} in metadata.json says, found {list(shape)} and {dtype.name} in "
                f"{self._folder}; the Vault is damaged or has several batches"
            )
        super().__init__(leaf, (rows, *shape[2:]), dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Read rows.

        Args:
            start: the first row.
            stop: one beyond the last row.
        """
        with reading(self._folder):
            return self._array[0, start:stop].read().result()
