"""Looks a dataset through and reports all that is wrong or suspicious."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data import checks
from benchmarl_ssd.data.auditing_columns import Columns
from benchmarl_ssd.data.auditing_episodes import Continuity, EpisodeEnds
from benchmarl_ssd.data.contents import Observer, find_contents
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.findings import Finding, merged
from benchmarl_ssd.data.layout import METADATA_FILE, tensor_file
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import Episodes, read_rows
from benchmarl_ssd.data.validation import find_files, find_folder, find_metadata


@dataclass
class Audit:
    """What :func:`audit` found.

    Args:
        path: the dataset's folder.
        findings: errors first; one per kind and tensor.
        metadata: what the dataset says about itself, or None if that cannot be read.
    """

    path: Path
    findings: list[Finding]
    metadata: DatasetMetadata | None

    @property
    def errors(self) -> int:
        """Number of findings that make the dataset unusable."""
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings to be looked at."""
        return len(self.findings) - self.errors

    def to_dict(self) -> dict[str, Any]:
        """Give everything, ready for JSON."""
        return {
            "path": str(self.path),
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": self.metadata.counts if self.metadata else None,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def audit(path: str | os.PathLike[str], contents: bool = True) -> Audit:
    """Look a dataset through and report all that is wrong or suspicious.

    Errors are what :func:`~benchmarl_ssd.data.validation.validate` raises, all of them, and
    observations that do not go on from one step to the next, padding with infinities, and counts
    or returns that the values do not bear out. Warnings are what may be meant: constant or doubled
    columns, ends that look like a time limit marked as termination, odd episode lengths.

    Values are read once, in pieces; memory grows with the number of episodes, not with their size.

    Args:
        path: the dataset's folder.
        contents: whether to read the values and checksums; False looks at metadata and sizes alone.

    Returns:
        The findings.

    Raises:
        DatasetError: if there is no folder at ``path``.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> audit(write_example()).findings
        []
    """
    folder = Path(path)
    findings = list(find_folder(folder))
    if findings and not folder.is_dir():
        raise DatasetError(findings[0].message)
    if findings:
        return Audit(folder, findings, None)
    try:
        metadata = DatasetMetadata.read(folder)
    except DatasetError as error:
        return Audit(folder, [_unreadable(str(error))], None)
    findings += [*find_files(folder, metadata), *find_metadata(metadata)]
    if contents:
        damaged = {f.key for f in findings if f.check == "files" and f.key}
        shapes = ("layout", "shape", "action bounds")
        damaged |= {tensor_file(f.key) for f in findings if f.check in shapes and f.key}
        observers = _observers(metadata, damaged, shlex.quote(str(folder)))
        findings += _named(find_contents(folder, metadata, damaged, observers), folder)
    return Audit(folder, _without_repeats(merged(findings)), metadata)


def _unreadable(message: str) -> Finding:
    expected, _, rest = message.removeprefix("expected ").partition(", found ")
    if not rest:  # an error that is not of this form: a file that cannot be read, a newer version
        return Finding("metadata", "readable metadata", message, "restore the file", METADATA_FILE)
    found, _, mend = rest.partition("; ")
    return Finding("metadata", expected, found, mend, METADATA_FILE)


def _observers(metadata: DatasetMetadata, damaged: set[str], folder: str) -> list[Observer]:
    names = [n for n, info in metadata.tensors.items() if info.file not in damaged]
    observers: list[Observer] = [Columns(metadata, names)]
    if "next/done" in names:
        observers.append(Continuity(names, folder))
    ends = EpisodeEnds(metadata, folder)
    if set(ends.names) <= set(names):
        observers.append(ends)
    return observers


def _named(findings: Iterator[Finding], folder: Path) -> Iterator[Finding]:
    """Name the command that leaves unsound episodes out, where that is what mends."""
    command = f"`benchmarl-ssd subset {shlex.quote(str(folder))} --sound --out NEW`"
    for finding in findings:
        if finding.check in ("values", "bounds") and finding.row is not None:
            mend = f"{finding.mend}; {command} leaves such episodes out"
            finding = replace(finding, mend=mend)
        yield finding


def _without_repeats(findings: Sequence[Finding]) -> list[Finding]:
    # Padding makes every transition's values infinite: one finding says it better than two.
    padded = {finding.key: finding.count for finding in findings if finding.check == "padding"}
    return [f for f in findings if f.check != "values" or padded.get(f.key) != f.count]


def sound_episodes(path: Path, metadata: DatasetMetadata, episodes: Episodes) -> torch.Tensor:
    """Tell which episodes have finite values, actions in bounds and unbroken observations.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself, already validated against the files.
        episodes: its episodes.

    Returns:
        bool ``[E]``.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> from benchmarl_ssd.data.reading import read_episodes
        >>> path = write_example()
        >>> metadata = DatasetMetadata.read(path)
        >>> sound_episodes(path, metadata, read_episodes(path, metadata)).tolist()
        [True, True, True, True]
    """
    limits = {f"{group}/action": metadata.bounds(group) for group in metadata.groups}
    continuity = Continuity(list(metadata.tensors), "")
    sound = torch.ones(len(episodes), dtype=torch.bool)
    for row, rows in read_rows(path, metadata.tensors):
        wrong = torch.zeros(len(rows["episode"]), dtype=torch.bool)
        for name, values in rows.items():
            wrong |= checks.wrong_values(values)
            if name in limits:
                wrong |= checks.wrong_actions(values, *limits[name])
        for at in (wrong.nonzero().flatten() + row, *continuity.breaks(rows, row).values()):
            sound[torch.searchsorted(episodes.starts, at, right=True) - 1] = False
    return sound
