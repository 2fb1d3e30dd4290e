"""Makes datasets out of datasets: merge, subset, split. The originals stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from benchmarl_ssd.data.auditing import sound_episodes
from benchmarl_ssd.data.compatible import check_compatible
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.files import expect_nothing
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import Episodes, read_episodes, read_rows, whole_episodes
from benchmarl_ssd.data.selecting import Selection, partition
from benchmarl_ssd.data.validation import validate
from benchmarl_ssd.data.writer import DatasetWriter

AnyPath = str | os.PathLike[str]


def merge(
    paths: Sequence[AnyPath], out: AnyPath, references_from: AnyPath | None = None
) -> DatasetMetadata:
    """Write one dataset with the episodes of several, in the order they are given.

    This is how mixed datasets are made, such as medium-expert or two conventions side by side.

    Args:
        paths: folders of at least two datasets of the same task, groups, tensors and bounds.
        out: the folder to write; it must not exist.
        references_from: which dataset's references to keep, where they differ; one of ``paths``.

    Returns:
        What the new dataset says about itself; ``source`` names the originals.

    Raises:
        DatasetError: if the datasets do not fit together, the message saying in what; if one is
            damaged; if ``out`` exists or cannot be written.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> medium, expert = write_example(seed=1), write_example(seed=2)
        >>> merge([medium, expert], medium.parent / "medium-expert").counts["episodes"]
        8
    """
    folders = [Path(path) for path in paths]
    if len(folders) < 2:
        raise DatasetError(f"expected at least two datasets to merge, found {len(folders)}")
    _check_target(out, folders)
    parents = [(folder, validate(folder, "auto")) for folder in folders]
    references = check_compatible(parents, Path(references_from) if references_from else None)
    about = {"kind": "merge", "parents": [_parent(*parent) for parent in parents]}
    with _writer(out, parents[0][1], about, references=references) as writer:
        for folder, metadata in parents:
            episodes = read_episodes(folder, metadata)
            everything = torch.ones(len(episodes), dtype=torch.bool)
            for _, rows in _chosen(folder, metadata, episodes, everything):
                writer.extend(_as_transitions(rows))
    assert writer.metadata is not None
    return writer.metadata


def subset(
    path: AnyPath,
    out: AnyPath,
    selection: Selection | None = None,
    *,
    sound: bool = False,
    time_limit: int | None = None,
) -> DatasetMetadata:
    """Write a dataset with some of the episodes of another, in their order.

    Args:
        path: the dataset's folder.
        out: the folder to write; it must not exist.
        selection: which episodes; None takes all.
        sound: leave out episodes with values that are not finite, actions out of bounds or
            observations that do not go on from step to step. The dataset may then be one that does
            not open for such values; its checksums are not looked at.
        time_limit: ends at this step, > 1, are truncated by it and not terminated.

    Returns:
        What the new dataset says about itself; ``source`` names the original and the selection.

    Raises:
        DatasetError: if nothing is selected, the dataset is damaged, or ``out`` exists or cannot be
            written.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> path = write_example()
        >>> best = subset(path, path.parent / "best", Selection(top=0.25))
        >>> best.episodes, best.source["selection"]
        (1, {'top': 0.25})
    """
    folder, selection = Path(path), selection or Selection()
    if time_limit is not None and time_limit < 2:
        raise DatasetError(f"expected a time limit of at least 2 steps, found {time_limit}")
    _check_target(out, [folder])
    metadata = validate(folder, "fast" if sound else "auto")
    episodes = read_episodes(folder, metadata)
    among = sound_episodes(folder, metadata, episodes) if sound else None
    chosen = selection.choose(episodes, among)
    about: dict[str, Any] = {"kind": "subset", "parents": [_parent(folder, metadata)]}
    about["selection"] = selection.to_dict()
    if among is not None:
        about["unsound_episodes_left_out"] = int((~among).sum())
    if time_limit is not None:
        about["time_limit"] = time_limit
    with _writer(out, metadata, about) as writer:
        for kept, rows in _chosen(folder, metadata, episodes, chosen):
            if time_limit is not None:
                _truncate(rows, _last_rows(episodes, kept, time_limit))
            writer.extend(_as_transitions(rows))
    assert writer.metadata is not None
    return writer.metadata


def split(
    path: AnyPath,
    outs: Sequence[AnyPath],
    fractions: Sequence[float] | None = None,
    *,
    by: str = "random",
    seed: int = 0,
) -> list[DatasetMetadata]:
    """Write a dataset's episodes as several datasets; each episode goes into exactly one.

    Args:
        path: the dataset's folder.
        outs: the folders to write; they must not exist.
        fractions: each one's share of the episodes, > 0, summing to 1; None shares equally.
        by: ``"random"``, ``"order"`` or ``"return"``, as
            :func:`~benchmarl_ssd.data.selecting.partition` takes it.
        seed: of ``"random"``.

    Returns:
        What the new datasets say about themselves.

    Raises:
        DatasetError: as :func:`subset`; nothing is left of any part then.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> path = write_example()
        >>> outs = [path.parent / "train", path.parent / "test"]
        >>> [part.episodes for part in split(path, outs, [0.75, 0.25])]
        [3, 1]
    """
    folder, targets = Path(path), [Path(os.path.abspath(out)) for out in outs]  # noqa: PTH100
    shares = [1 / len(targets) for _ in targets] if fractions is None else list(fractions)
    if not targets or len(shares) != len(targets) or len(set(targets)) != len(targets):
        raise DatasetError(
            f"expected folders to write, all different, and as many fractions, found {len(shares)} "
            f"fractions and {len(set(targets))} folders; give one of each per part"
        )
    for target in targets:
        _check_target(target, [folder])
    metadata = validate(folder, "auto")
    episodes = read_episodes(folder, metadata)
    parts = partition(episodes, shares, by, seed)
    everything = torch.ones(len(episodes), dtype=torch.bool)
    writers: list[DatasetWriter] = []
    found: list[DatasetMetadata] = []
    try:
        for index, target in enumerate(targets):
            about: dict[str, Any] = {"kind": "split", "parents": [_parent(folder, metadata)]}
            choice: dict[str, Any] = {"fractions": shares, "part": index, "by": by}
            about["selection"] = choice | ({"seed": seed} if by == "random" else {})
            writers.append(_writer(target, metadata, about))
        for kept, rows in _chosen(folder, metadata, episodes, everything):
            for writer, part in zip(writers, parts, strict=True):
                mine = part[kept].repeat_interleave(episodes.lengths[kept])
                if mine.any():
                    writer.extend(_as_transitions({n: v[mine] for n, v in rows.items()}))
        for writer in writers:
            found.append(writer.close())
    except BaseException:
        for target, _ in zip(targets, found, strict=False):
            shutil.rmtree(target)  # closed by this very call, so nobody else's
        for writer in writers[len(found) :]:
            writer.abort()
        raise
    return found


def _check_target(out: AnyPath, originals: Sequence[Path]) -> None:
    expect_nothing(Path(out))
    for original in originals:
        if Path(out).resolve().is_relative_to(original.resolve()):
            raise DatasetError(
                f"expected a folder outside of {original}, found {os.fspath(out)!r}; datasets are "
                "not written into: choose another place"
            )


def _parent(folder: Path, metadata: DatasetMetadata) -> dict[str, Any]:
    return {
        "folder": folder.resolve().name,
        "id": metadata.id,
        "checksum": metadata.checksum,
        "counts": metadata.counts,
        "references": metadata.references,
        "source": metadata.source,
    }


def _writer(
    out: AnyPath, like: DatasetMetadata, about: Mapping[str, Any], **changes: Any
) -> DatasetWriter:
    settings: dict[str, Any] = {
        "groups": like.groups,
        "action_bounds": like.action_bounds,
        "task": like.task,
        "references": like.references,
        "source": about,
    }
    return DatasetWriter(out, **{**settings, **changes})


def _chosen(
    path: Path, metadata: DatasetMetadata, episodes: Episodes, chosen: torch.Tensor
) -> Iterator[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
    """Read the chosen episodes in pieces: their numbers, and their transitions."""
    spans = whole_episodes(metadata, episodes, chosen)
    for start, rows in read_rows(path, metadata.tensors, spans):
        first = int(torch.searchsorted(episodes.starts, start))
        stop = int(torch.searchsorted(episodes.starts, start + len(rows["episode"])))
        mask = chosen[first:stop]
        kept = mask.nonzero().flatten() + first
        wanted = mask.repeat_interleave(episodes.lengths[first:stop])
        whole = bool(mask.all())
        yield kept, rows if whole else {name: values[wanted] for name, values in rows.items()}


def _as_transitions(rows: Mapping[str, torch.Tensor]) -> TensorDict:
    count = len(rows["episode"])
    data = TensorDict({}, batch_size=[count])
    for name, values in rows.items():
        if name != "episode":  # the writer numbers them
            data.set(name_key(name), values)
    return data


def _last_rows(episodes: Episodes, kept: torch.Tensor, length: int) -> torch.Tensor:
    """Give the last rows of the kept episodes of that length, counted within these."""
    lengths = episodes.lengths[kept]
    return (torch.cumsum(lengths, 0) - 1)[lengths == length]


def _truncate(rows: Mapping[str, torch.Tensor], at: torch.Tensor) -> None:
    for name in rows:
        if name.startswith("next/") and name.endswith("/terminated"):
            other = name.removesuffix("terminated") + "truncated"
            if other in rows:
                rows[other][at] |= rows[name][at]
            rows[name][at] = False
