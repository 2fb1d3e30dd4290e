"""Reads datasets in pieces, so that memory stays flat however large they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import TensorInfo
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.statistics import team_reward

CHUNK_BYTES = 16 * 1024**2
"""Bytes read at once, over all tensors."""

Rows = dict[str, torch.Tensor]


def chunk_rows(tensors: Mapping[str, TensorInfo]) -> int:
    """Tell how many transitions fit into one piece of :data:`CHUNK_BYTES`, at least 1.

    Args:
        tensors: the tensors to read, by name.
    """
    return max(1, CHUNK_BYTES // max(1, sum(map(_row_bytes, tensors.values()))))


def read_rows(
    path: Path,
    tensors: Mapping[str, TensorInfo],
    spans: Iterable[tuple[int, int]] | None = None,
    digests: Mapping[str, Any] | None = None,
) -> Iterator[tuple[int, Rows]]:
    """Read the same transitions of several tensors, a piece at a time.

    Args:
        path: the dataset's folder.
        tensors: what to read, by name; their files have been checked.
        spans: first and last-plus-one transition of each piece, ascending; None reads everything.
        digests: objects with ``update(bytes)`` that take in what was read, by name.

    Yields:
        The piece's first transition, and its values ``[t, ...]`` by name.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> path = write_example()
        >>> tensors = {"episode": DatasetMetadata.read(path).tensors["episode"]}
        >>> [(row, rows["episode"].tolist()) for row, rows in read_rows(path, tensors, [(4, 6)])]
        [(4, [0, 1])]
    """
    if not tensors:
        return
    length = min(info.shape[0] for info in tensors.values())
    if spans is None:
        step = chunk_rows(tensors)
        spans = ((start, min(start + step, length)) for start in range(0, length, step))
    with ExitStack() as stack:
        files = {n: stack.enter_context((path / i.file).open("rb")) for n, i in tensors.items()}
        for start, stop in spans:
            rows = {}
            for name, info in tensors.items():
                size = _row_bytes(info)
                files[name].seek(start * size)
                block = bytearray(files[name].read((stop - start) * size))
                if digests is not None:
                    digests[name].update(block)
                values = torch.frombuffer(block, dtype=info.torch_dtype)
                rows[name] = values.view(stop - start, *info.shape[1:])
            yield start, rows


def _row_bytes(info: TensorInfo) -> int:
    return max(1, info.bytes // max(1, info.shape[0]))


@dataclass
class Episodes:
    """Where each episode of a dataset lies and how it went, all ``[E]``.

    Args:
        starts: int64, first transition.
        lengths: int64, in steps.
        returns: float64, sum over time of the team's reward.
        terminated: bool, whether the task ended it (and not a time limit alone).
    """

    starts: torch.Tensor
    lengths: torch.Tensor
    returns: torch.Tensor
    terminated: torch.Tensor

    def __len__(self) -> int:
        return len(self.starts)


class EpisodeTable:
    """Gathers :class:`Episodes` from pieces that may cut episodes anywhere.

    Args:
        groups: names of the groups whose rewards count.

    Example:
        >>> table = EpisodeTable(["agents"])
        >>> ends = torch.tensor([[True], [False]])
        >>> for part in (ends, ~ends):
        ...     reward = {"next/agents/reward": torch.ones(2, 3, 1)}
        ...     table.add(reward | {"next/done": part, "next/terminated": part})
        >>> table.episodes().lengths.tolist(), table.episodes().returns.tolist()
        ([1, 3], [1.0, 3.0])
    """

    def __init__(self, groups: Sequence[str]) -> None:
        self.names = [f"next/{group}/reward" for group in groups]
        self.names += ["next/done", "next/terminated"]
        self._rows = 0
        self._open = torch.zeros(1, dtype=torch.float64)
        self._ends: list[torch.Tensor] = []
        self._returns: list[torch.Tensor] = []
        self._terminated: list[torch.Tensor] = []

    def add(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Take the next transitions.

        Args:
            rows: at least the tensors of ``names``, ``[t, ...]``.
        """
        done = rows["next/done"].flatten()
        ends = done.nonzero().flatten()
        episode = torch.cumsum(done.long(), 0) - done.long()
        returns = torch.zeros(len(ends) + 1, dtype=torch.float64)
        returns[0] = self._open  # what the episode gathered in the piece before
        returns.index_add_(0, episode, team_reward([rows[name] for name in self.names[:-2]]))
        self._open = returns[-1].clone()
        self._returns.append(returns[:-1])
        self._ends.append(ends + self._rows)
        self._terminated.append(rows["next/terminated"].flatten()[ends])
        self._rows += len(done)

    def episodes(self) -> Episodes:
        """Give the episodes that have ended so far."""
        empty = torch.zeros(0, dtype=torch.int64)
        ends = torch.cat([empty, *self._ends])
        lengths = torch.diff(ends, prepend=ends.new_tensor([-1]))
        returns = torch.cat([empty.double(), *self._returns])
        terminated = torch.cat([empty.bool(), *self._terminated])
        return Episodes(ends + 1 - lengths, lengths, returns, terminated)


def read_episodes(path: Path, metadata: DatasetMetadata) -> Episodes:
    """Tell where a dataset's episodes lie and how they went.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself, already validated against the files.

    Raises:
        DatasetError: if the flags do not end as many episodes as the metadata counts.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> path = write_example(episodes=3, length=2)
        >>> read_episodes(path, DatasetMetadata.read(path)).starts
        tensor([0, 2, 4])
    """
    table = EpisodeTable(list(metadata.groups))
    for _, rows in read_rows(path, {name: metadata.tensors[name] for name in table.names}):
        table.add(rows)
    episodes = table.episodes()
    if len(episodes) != metadata.episodes or int(episodes.lengths.sum()) != metadata.transitions:
        raise DatasetError(
            f"expected {metadata.episodes} whole episodes in {path}, found {len(episodes)} that "
            f"end; `benchmarl-ssd validate {path}` tells what is damaged"
        )
    return episodes


def whole_episodes(
    metadata: DatasetMetadata, episodes: Episodes, chosen: torch.Tensor
) -> Iterator[tuple[int, int]]:
    """Cut a dataset into pieces of whole episodes, leaving out pieces with nothing chosen.

    Args:
        metadata: what the dataset says about itself.
        episodes: its episodes.
        chosen: bool ``[E]``.

    Yields:
        First and last-plus-one transition, as :func:`read_rows` takes them; a piece is as large as
        one of its pieces, or one episode where that is longer.
    """
    limit = chunk_rows(metadata.tensors)
    wanted = chosen.nonzero().flatten().tolist()
    starts, lengths = episodes.starts.tolist(), episodes.lengths.tolist()
    start = stop = -1
    for episode in wanted:
        end = starts[episode] + lengths[episode]
        # A gap as large as what is wanted costs less to read over than a further piece.
        if start >= 0 and end - start <= limit:
            stop = end
            continue
        if start >= 0:
            yield start, stop
        start, stop = starts[episode], end
    if start >= 0:
        yield start, stop
