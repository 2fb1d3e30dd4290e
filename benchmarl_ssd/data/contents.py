"""Reads every value of a dataset once and says what is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from benchmarl_ssd.data import checks
from benchmarl_ssd.data.findings import Finding
from benchmarl_ssd.data.layout import FileInfo
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import CHUNK_BYTES, read_rows


class Observer(Protocol):
    """A check that sees all transitions go by, a piece at a time."""

    def add(self, row: int, rows: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
        """Take transitions.

        Args:
            row: the first one's number.
            rows: the readable tensors, ``[t, ...]`` by name.
        """
        ...

    def finish(self) -> Iterator[Finding]:
        """Tell what only the whole dataset shows."""
        ...


def find_contents(
    path: Path,
    metadata: DatasetMetadata,
    damaged: Collection[str] = (),
    observers: Sequence[Observer] = (),
) -> Iterator[Finding]:
    """Find wrong values, then wrong episodes, then files whose checksum does not verify.

    What the values say comes before the checksums, so that a NaN is called a NaN. The data is read
    once, in pieces.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself.
        damaged: files to leave out, by path, because they cannot be read as described.
        observers: further checks that see the same pieces.

    Yields:
        What is wrong, while reading.
    """
    tensors = {n: info for n, info in metadata.tensors.items() if info.file not in damaged}
    limits = {
        f"{g}/action": metadata.bounds(g) for g in metadata.groups if f"{g}/action" in tensors
    }
    digests = {name: hashlib.sha256() for name in tensors}
    whole = {"episode", *checks.FLAGS} <= tensors.keys()
    watching: list[Observer] = [*([_EpisodeNumbers(metadata)] if whole else []), *observers]
    for row, rows in read_rows(path, tensors, digests=digests):
        for name, values in rows.items():
            yield from checks.find_values(name, values, row)
            if name in limits:
                yield from checks.find_actions(name, values, *limits[name], row)
        for observer in watching:
            yield from observer.add(row, rows)
    for observer in watching:
        yield from observer.finish()
    for name, info in tensors.items():
        yield from _find_checksum(path, info.file, info, digests[name].hexdigest())
    for name, file in metadata.index.items():
        if name not in damaged:
            digest = hashlib.sha256()
            with (path / name).open("rb") as content:
                while block := content.read(CHUNK_BYTES):
                    digest.update(block)
            yield from _find_checksum(path, name, file, digest.hexdigest())


def _find_checksum(path: Path, name: str, info: FileInfo, found: str) -> Iterator[Finding]:
    if found != info.sha256:
        yield Finding(
            "checksum",
            f"checksum {info.sha256} of {path / name}",
            f"{found}: the contents were changed",
            "copy the dataset again or record it again",
            key=name,
        )


class _EpisodeNumbers:
    def __init__(self, metadata: DatasetMetadata) -> None:
        self._expected = metadata.episodes
        self._current = 0
        self._ended = False

    def add(self, row: int, rows: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
        done, terminated, truncated = (rows[name] for name in checks.FLAGS)
        yield from checks.find_flags(done, terminated, truncated, row)
        ends = done.flatten().long()
        expected = self._current + torch.cumsum(ends, 0) - ends
        wrong = rows["episode"] != expected
        if wrong.any():
            at = int(wrong.nonzero()[0])
            yield Finding(
                "episodes",
                f"episode {int(expected[at])}",
                f"{int(rows['episode'][at])} at transition {row + at}: episodes count up from 0 "
                "and change after done",
                "record the data again",
                key="episode",
                row=row + at,
                count=int(wrong.sum()),
            )
        self._current += int(ends.sum())
        self._ended = bool(done[-1])

    def finish(self) -> Iterator[Finding]:
        if self._current != self._expected or not self._ended:
            yield Finding(
                "episodes",
                f"{self._expected} whole episodes",
                f"{self._current} that end",
                "record the dataset again",
                key="next/done",
            )
