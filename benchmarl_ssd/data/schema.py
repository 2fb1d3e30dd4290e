"""The check that a ``metadata.json`` has every entry, each of the right type."""

from __future__ import annotations

import math
from typing import Any

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import (
    DTYPES,
    METADATA_FILE,
    FileInfo,
    TensorInfo,
    name_key,
    tensor_file,
)

_NUMBER = (int, float)
MEND = "restore the file or record the dataset again"
"""What to do about a file with a wrong entry, as errors say it."""


def parse(raw: dict[str, Any]) -> dict[str, Any]:
    """Check the entries of a ``metadata.json`` and give them as ``DatasetMetadata`` takes them.

    Args:
        raw: the file's contents, its format and version already checked.

    Raises:
        DatasetError: if an entry is missing, of the wrong type or at odds with another.
    """
    groups = _get(raw, "groups", dict)
    for group, agents in groups.items():
        if not isinstance(agents, list) or not agents or not all(map(_is_str, agents)):
            raise _wrong(f"groups.{group}", "a list of the agents' names", agents)
    if not groups:
        raise _wrong("groups", "at least one group", groups)
    tensors = _get(raw, "tensors", dict)
    index = _get(raw, "index", dict)
    bounds = _get(raw, "action_bounds", dict)
    for group in groups:
        for side in ("low", "high"):
            _get(_get(bounds, group, dict, "action_bounds."), side, list, f"action_bounds.{group}.")
    return dict(
        groups=groups,
        tensors={name: _parse_tensor(name, _get(tensors, name, dict)) for name in tensors},
        index={path: _parse_file(f"index.{path}", _get(index, path, dict)) for path in index},
        action_bounds=bounds,
        counts=_numbers(raw, "counts", ("transitions", "episodes", "terminated", "truncated"), int),
        episode_return=_numbers(raw, "episode_return", ("mean", "std", "min", "max", "median")),
        episode_length=_numbers(raw, "episode_length", ("mean", "min", "max")),
        **parse_about(raw),
        checksum=_get(raw, "checksum", str),
    )


def parse_about(raw: dict[str, Any]) -> dict[str, Any]:
    """Check the entries that a recorder chooses: ``id``, ``task``, ``references``, ``source``.

    Args:
        raw: them, and perhaps others.

    Raises:
        DatasetError: if an entry is missing or of the wrong type.
    """
    task = _get(raw, "task", (dict, type(None)))
    if task is not None:
        for name, kind in (("environment", str), ("name", str), ("config", dict)):
            _get(task, name, kind, "task.")
    references = _get(raw, "references", (dict, type(None)))
    for name, value in (references or {}).items():
        number = isinstance(value, _NUMBER) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value)):
            raise _wrong(f"references.{name}", "a finite number or null", value)
    id, source = _get(raw, "id", (str, type(None))), _get(raw, "source", dict)
    return {"id": id, "task": task, "references": references, "source": source}


def _parse_file(where: str, raw: dict[str, Any]) -> FileInfo:
    return FileInfo(_size(raw, where), _get(raw, "sha256", str, where + "."))


def _parse_tensor(name: str, raw: dict[str, Any]) -> TensorInfo:
    where = f"tensors.{name}"
    name_key(name)
    file, dtype = (_get(raw, entry, str, where + ".") for entry in ("file", "dtype"))
    if file != tensor_file(name):
        raise _wrong(f"{where}.file", repr(tensor_file(name)), file)
    if dtype not in DTYPES:
        raise _wrong(f"{where}.dtype", f"one of {', '.join(DTYPES)}", dtype)
    shape = _get(raw, "shape", list, where + ".")
    if not shape or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise _wrong(f"{where}.shape", "a list of sizes", shape)
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if _size(raw, where) != expected:
        raise _wrong(f"{where}.bytes", f"{expected} ({dtype}{shape})", raw["bytes"])
    sha256 = _get(raw, "sha256", str, where + ".")
    return TensorInfo(expected, sha256, file, dtype, tuple(shape))


def _size(raw: dict[str, Any], where: str) -> int:
    return _get(raw, "bytes", int, where + ".")


def _numbers(
    raw: dict[str, Any], name: str, entries: tuple[str, ...], kind: Any = _NUMBER
) -> dict[str, Any]:
    values = _get(raw, name, dict)
    return {entry: _get(values, entry, kind, name + ".") for entry in entries}


def _get(raw: dict[str, Any], name: str, kind: Any, where: str = "") -> Any:
    if name not in raw:
        raise _wrong(where + name, "an entry", "nothing")
    value = raw[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        raise _wrong(where + name, " or ".join(k.__name__ for k in kinds), value)
    return value


def _wrong(where: str, expected: str, found: Any) -> DatasetError:
    text = repr(found)
    return DatasetError(
        f"expected {expected} at {where} in {METADATA_FILE}, "
        f"found {text if len(text) < 80 else text[:77] + '...'}; "
        f"{MEND}"
    )


def _is_str(value: Any) -> bool:
    return isinstance(value, str)
