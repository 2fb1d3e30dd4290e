"""Where things lie in a dataset's folder, and what tensordict needs to open it.

A dataset is ``metadata.json`` beside ``data/``, and ``data/`` is a memory-mapped TensorDict: one
``<key>.memmap`` of raw values per tensor, and one ``meta.json`` per nested TensorDict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from benchmarl_ssd.data.errors import DatasetError

METADATA_FILE = "metadata.json"
DATA_FOLDER = "data"

DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )
}

_KEY_PART = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f]+")

Key = tuple[str, ...]


@dataclass(frozen=True)
class FileInfo:
    """One file of a dataset.

    Args:
        bytes: the file's size.
        sha256: hexadecimal SHA-256 of the file's contents.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorInfo(FileInfo):
    """One tensor of a dataset and the file that holds its values, little-endian and in C order.

    Args:
        bytes: the file's size.
        sha256: hexadecimal SHA-256 of the file's contents.
        file: path relative to the dataset's folder.
        dtype: name of the torch dtype, such as ``"float32"``.
        shape: ``(T, ...)`` with T the number of transitions.

    Example:
        >>> info = TensorInfo(160, "0" * 64, "data/agents/action.memmap", "float32", (10, 2, 2))
        >>> info.torch_dtype
        torch.float32
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype of the values."""
        return DTYPES[self.dtype]


def key_name(key: str | Iterable[str]) -> str:
    """Write a tensordict key as the name used in ``metadata.json``.

    Args:
        key: a tensordict key, a string or a tuple of strings.

    Raises:
        DatasetError: if a part of the key cannot be a file's name.

    Example:
        >>> key_name(("next", "agents", "reward"))
        'next/agents/reward'
    """
    parts = (key,) if isinstance(key, str) else tuple(key)
    if not parts or not all(_KEY_PART.fullmatch(part) for part in parts):
        raise DatasetError(
            f"expected a key whose parts can be file names, found {key!r}; "
            "rename it without slashes"
        )
    return "/".join(parts)


def name_key(name: str) -> Key:
    """Read a name of ``metadata.json`` as a tensordict key.

    Args:
        name: the parts of a key, joined by slashes.

    Raises:
        DatasetError: if the name is empty or could lead out of the folder.

    Example:
        >>> name_key("next/agents/reward")
        ('next', 'agents', 'reward')
    """
    parts = tuple(name.split("/"))
    if not all(_KEY_PART.fullmatch(part) for part in parts):
        raise DatasetError(
            f"expected tensor names such as 'agents/action', found {name!r}; "
            "the dataset's metadata is damaged"
        )
    return parts


def tensor_file(name: str) -> str:
    """Tell where a tensor's values lie, relative to the dataset's folder.

    Args:
        name: the tensor's name, such as ``"agents/action"``.

    Example:
        >>> tensor_file("agents/action")
        'data/agents/action.memmap'
    """
    return f"{DATA_FOLDER}/{name}.memmap"


def index_files(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> dict[str, bytes]:
    """Compose the ``meta.json`` files that let ``TensorDict.load_memmap`` open the data folder.

    Args:
        tensors: dtype and shape ``[T, ...]`` of each tensor, by name.

    Returns:
        The files' contents, by path relative to the dataset's folder.

    Example:
        >>> sorted(index_files({"agents/action": (torch.float32, (5, 2, 2))}))
        ['data/agents/meta.json', 'data/meta.json']
    """
    length = next(iter(tensors.values()))[1][0]
    folders: dict[Key, dict] = {(): {}}
    for name in sorted(tensors):
        dtype, shape = tensors[name]
        key = name_key(name)
        for depth in range(len(key) - 1):
            folders.setdefault(key[: depth + 1], {})
            folders[key[:depth]][key[depth]] = {"type": "TensorDict"}
        folders[key[:-1]][key[-1]] = {
            "device": "cpu",
            "shape": list(shape),
            "dtype": str(dtype),
            "is_nested": False,
        }
    files = {}
    for path, entries in folders.items():
        entries |= {
            "shape": [length],
            "device": "cpu",
            "_type": "<class 'tensordict._td.TensorDict'>",
        }
        text = json.dumps(entries, separators=(",", ":"))
        files["/".join((DATA_FOLDER, *path, "meta.json"))] = text.encode()
    return files
