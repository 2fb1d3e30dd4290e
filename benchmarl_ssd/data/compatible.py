"""Decides whether datasets can be made one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.metadata import DatasetMetadata


def check_compatible(
    datasets: Sequence[tuple[Path, DatasetMetadata]], references_from: Path | None = None
) -> dict[str, float | None] | None:
    """Check that datasets can be merged, and tell which references the merged one has.

    Args:
        datasets: their folders and what they say about themselves, at least one.
        references_from: the folder whose references to keep where they differ; one of these.

    Returns:
        The references.

    Raises:
        DatasetError: naming all in which a dataset differs from the first one: task, groups,
            tensors, action bounds, or references.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> paths = write_example(agents=2), write_example(agents=3)
        >>> try:
        ...     check_compatible([(path, DatasetMetadata.read(path)) for path in paths])
        ... except DatasetError as error:
        ...     "groups (agents: agent_0, agent_1; agents: agent_0, agent_1," in str(error)
        True
    """
    (path, first), *others = datasets
    for other, metadata in others:
        different = list(_differences(first, metadata))
        if different:
            raise DatasetError(
                f"expected datasets of one task, groups, tensors and bounds, found {path} and "
                f"{other} to differ in {'; in '.join(different)}; merge what was made alike"
            )
    if references_from is not None:
        for folder, metadata in datasets:
            if folder.resolve() == references_from.resolve():
                return metadata.references
        raise DatasetError(
            f"expected the references of one of the datasets to merge, found {references_from}; "
            f"give one of {', '.join(str(folder) for folder, _ in datasets)}"
        )
    for other, metadata in others:
        if (metadata.references or None) != (first.references or None):
            raise DatasetError(
                f"expected equal references, found {_short(first.references)} in {path} and "
                f"{_short(metadata.references)} in {other}; say whose to keep with "
                "--references-from (in Python: references_from)"
            )
    return first.references


def _differences(a: DatasetMetadata, b: DatasetMetadata) -> Iterator[str]:
    """Name what differs, with both values."""
    if a.task is None or b.task is None:
        if a.task != b.task:
            yield _pair("task", _task(a.task), _task(b.task))
    else:
        if _task(a.task) != _task(b.task):
            yield _pair("task", _task(a.task), _task(b.task))
        mine, theirs = a.task["config"], b.task["config"]
        for option in sorted(mine.keys() | theirs.keys()):
            if mine.get(option) != theirs.get(option):
                pair = _short(mine.get(option)), _short(theirs.get(option))
                yield _pair(f"the task's {option}", *pair)
    if a.groups != b.groups:
        yield _pair("groups", _groups(a), _groups(b))
    for name in sorted(a.tensors.keys() | b.tensors.keys()):
        pair = _spec(a, name), _spec(b, name)
        if pair[0] != pair[1]:
            yield _pair(name, *pair)
    for group in sorted(a.groups.keys() & b.groups.keys()):
        for side in ("low", "high"):
            mine, theirs = a.action_bounds[group][side], b.action_bounds[group][side]
            if not _equal(mine, theirs):
                yield _pair(f"action bound {side} of {group}", _short(mine), _short(theirs))


def _pair(what: str, a: str, b: str) -> str:
    return f"{what} ({a}; {b})"


def _task(task: Mapping[str, Any] | None) -> str:
    return f"{task['environment']}/{task['name']}" if task else "none"


def _groups(metadata: DatasetMetadata) -> str:
    return ", ".join(f"{name}: {', '.join(agents)}" for name, agents in metadata.groups.items())


def _spec(metadata: DatasetMetadata, name: str) -> str:
    info = metadata.tensors.get(name)
    return f"{info.dtype} {['T', *info.shape[1:]]}".replace("'", "") if info else "none"


def _equal(a: Any, b: Any) -> bool:
    first, second = (torch.as_tensor(sides, dtype=torch.float64) for sides in (a, b))
    return torch.equal(first, second)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
