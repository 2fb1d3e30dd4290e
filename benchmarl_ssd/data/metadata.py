"""What a dataset says about itself: the typed view of ``metadata.json``."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import METADATA_FILE, FileInfo, TensorInfo
from benchmarl_ssd.data.schema import MEND, parse, parse_about

FORMAT = "benchmarl-ssd dataset"
FORMAT_VERSION = 1


@dataclass
class DatasetMetadata:
    """What a dataset says about itself, as it stands in ``metadata.json``.

    Args:
        groups: names of the agents, by group, as in BenchMARL's ``group_map``.
        tensors: what is stored, by name (``"agents/observation"``, ``"next/done"``, ...).
        index: the ``meta.json`` files of the memory-mapped TensorDict, by path.
        action_bounds: ``{"low": ..., "high": ...}`` by group, nested lists ``[n][action]``.
        counts: ``transitions``, ``episodes``, and how many of these ended ``terminated`` and
            ``truncated``.
        episode_return: ``mean``, ``std``, ``min``, ``max``, ``median`` over episodes, of the sum
            over time of the reward's mean over a group's agents, averaged over groups.
        episode_length: ``mean``, ``min``, ``max`` over episodes, in steps.
        id: the id of the recipe that made it, or None.
        task: ``environment``, ``name`` and ``config`` of the BenchMARL task, or None.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        source: what recorded it: ``kind``, ``policy``, ``seed``, ``versions`` and free entries.
        checksum: SHA-256 over the checksums of all tensors.
        format_version: version of this layout.

    Raises:
        DatasetError: by :meth:`from_json`, if an entry is missing or of the wrong type.
    """

    groups: dict[str, list[str]]
    tensors: dict[str, TensorInfo]
    index: dict[str, FileInfo]
    action_bounds: dict[str, dict[str, Any]]
    counts: dict[str, int]
    episode_return: dict[str, float]
    episode_length: dict[str, float]
    id: str | None = None
    task: dict[str, Any] | None = None
    references: dict[str, float | None] | None = None
    source: dict[str, Any] = field(default_factory=dict)
    checksum: str = ""
    format_version: int = FORMAT_VERSION

    @property
    def transitions(self) -> int:
        """Number of transitions T."""
        return self.counts["transitions"]

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return self.counts["episodes"]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(info.bytes for info in self.tensors.values())

    def bounds(self, group: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the lowest and highest action of each agent of a group.

        Args:
            group: the group's name.

        Returns:
            ``low`` and ``high``, each of the shape of one action, ``[n, action]``.
        """
        info = self.tensors[f"{group}/action"]
        low, high = (
            torch.tensor(self.action_bounds[group][side], dtype=info.torch_dtype)
            for side in ("low", "high")
        )
        return low, high

    def total_checksum(self) -> str:
        """Compute the dataset's checksum from the tensors' checksums.

        Returns:
            Hexadecimal SHA-256; equal for equal names and contents, whatever recorded them.
        """
        lines = (f"{name} {self.tensors[name].sha256}\n" for name in sorted(self.tensors))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> str:
        """Write the metadata as the text of ``metadata.json``; equal metadata, equal text."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "format_version": self.format_version,
            "id": self.id,
            "task": _sorted(self.task),
            "groups": self.groups,
            "counts": self.counts,
            "episode_return": self.episode_return,
            "episode_length": self.episode_length,
            "references": self.references,
            "action_bounds": self.action_bounds,
            "tensors": {
                name: {
                    "file": info.file,
                    "dtype": info.dtype,
                    "shape": list(info.shape),
                    "bytes": info.bytes,
                    "sha256": info.sha256,
                }
                for name, info in sorted(self.tensors.items())
            },
            "index": {path: vars(info) for path, info in sorted(self.index.items())},
            "source": _sorted(self.source),
            "checksum": self.checksum,
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DatasetMetadata:
        """Read the text of a ``metadata.json``.

        Args:
            text: the file's contents.

        Raises:
            DatasetError: if it is not JSON, not this format, of an unknown version, or if an entry
                is missing or of the wrong type.
        """
        try:
            raw = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DatasetError(
                f"expected JSON in {METADATA_FILE}, found something else ({error}); "
                "restore the file or record the dataset again"
            ) from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
            raise DatasetError(
                f'expected "format": "{FORMAT}" in {METADATA_FILE}, found {found!r}; '
                "this folder holds something else"
            )
        version = raw.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise DatasetError(
                f"unknown format version {version!r}; this package reads version {FORMAT_VERSION}; "
                "upgrade benchmarl-ssd or record the dataset again"
            )
        return cls(**parse(raw))

    @classmethod
    def read(cls, folder: Path) -> DatasetMetadata:
        """Read the metadata of a dataset's folder without opening its data.

        Args:
            folder: the dataset.

        Raises:
            DatasetError: as :meth:`from_json`, or if the file cannot be read.
        """
        try:
            text = (folder / METADATA_FILE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise DatasetError(
                f"cannot read {folder / METADATA_FILE}: {reason}; "
                "expected a folder that `benchmarl-ssd record` or `benchmarl-ssd build` wrote"
            ) from None
        return cls.from_json(text)

    def __repr__(self) -> str:
        counts, returns = self.counts, self.episode_return
        task = f"{self.task['environment']}/{self.task['name']}" if self.task else None
        tensors = "\n".join(
            f"    {name}: {info.dtype}{list(info.shape)}" for name, info in self.tensors.items()
        )
        return (
            f"DatasetMetadata(id={self.id!r}, task={task!r},\n"
            f"  transitions={counts['transitions']}, episodes={counts['episodes']}"
            f" (terminated {counts['terminated']}, truncated {counts['truncated']}),\n"
            f"  episode return mean={returns['mean']:.4g}, min={returns['min']:.4g},"
            f" max={returns['max']:.4g},\n"
            f"  groups={{{', '.join(f'{g}: {len(a)} agents' for g, a in self.groups.items())}}},\n"
            f"  tensors:\n{tensors}\n)"
        )


def check_about(about: dict[str, Any]) -> None:
    """Check what a recorder says of a dataset, and make Python's numbers of numpy's and torch's.

    Args:
        about: ``id``, ``task``, ``references`` and ``source``; changed in place.

    Raises:
        DatasetError: naming what could not be written, or not be read again.
    """
    for name in ("task", "references"):
        if isinstance(about[name], dict):
            about[name] = {key: _sorted(value) for key, value in about[name].items()}
    try:
        parse_about(about)
    except DatasetError as error:
        raise DatasetError(str(error).replace(MEND, "correct what is given")) from None
    for name, value in about.items():  # the source may still grow
        try:
            json.dumps(_sorted(value), allow_nan=False)
        except ValueError:
            raise DatasetError(
                f"expected finite numbers in {name}, as JSON knows no others, found {value!r}; "
                "write them as text"
            ) from None


def _sorted(value: Any) -> Any:
    if hasattr(value, "item") and hasattr(value, "shape"):  # of numpy or torch
        value = value.item() if not value.shape else value.tolist()
    if isinstance(value, dict):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_sorted(item) for item in value]
    if isinstance(value, bool | int | float | str | None):
        return value
    return str(value)
