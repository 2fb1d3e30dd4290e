"""Writes a dataset: streamed into a temporary folder, renamed when whole."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata as distributions
from types import TracebackType
from typing import Any

import torch
from tensordict import TensorDictBase

from benchmarl_ssd.data import checks
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.files import AtomicFolder, TensorFile
from benchmarl_ssd.data.findings import raise_first
from benchmarl_ssd.data.layout import METADATA_FILE, index_files, key_name, tensor_file
from benchmarl_ssd.data.metadata import DatasetMetadata, check_about
from benchmarl_ssd.data.statistics import EpisodeStatistics, team_reward

_RESERVED = ("next", "episode", "state", "done", "terminated", "truncated")
_VERSIONED = ("benchmarl-ssd", "benchmarl", "torchrl", "tensordict", "torch", "vmas")


def versions() -> dict[str, str | None]:
    """Tell the versions of whatever a recording depends on.

    Returns:
        Version by distribution (underscores for hyphens) and ``python``; None if not installed.

    Example:
        >>> versions()["torch"] is not None
        True
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name.replace("-", "_")] = distributions.version(name)
        except distributions.PackageNotFoundError:
            found[name.replace("-", "_")] = None
    return dict(sorted(found.items()))


class DatasetWriter:
    """Writes a dataset from whole episodes, a chunk at a time.

    Everything goes to a hidden folder beside ``path``, which takes the name ``path`` only when it
    is whole and on the disk. After an exception or an interrupt nothing is left.

    Args:
        path: the folder to write; it must not exist.
        groups: names of the agents, by group, as in BenchMARL's ``group_map``.
        action_bounds: ``{"low": ..., "high": ...}`` by group: tensors or nested lists
            ``[n][action]``, in the action's unit.
        task: ``environment``, ``name`` and ``config`` of the BenchMARL task, if there is one.
        id: the id of the recipe, if there is one.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        source: what records: ``kind``, ``policy``, ``seed`` and free entries; versions are added.

    Raises:
        DatasetError: if ``path`` exists or cannot be written, or if what is given does not fit.

    Example:
        >>> import tempfile
        >>> from tensordict import TensorDict
        >>> from benchmarl_ssd.data import DatasetWriter, OfflineDataset
        >>> end = torch.tensor([[False], [True]])
        >>> observation = torch.zeros(2, 3, 4)
        >>> episode = TensorDict(
        ...     {
        ...         ("agents", "observation"): observation,
        ...         ("agents", "action"): torch.zeros(2, 3, 1),
        ...         ("next", "agents", "observation"): observation,
        ...         ("next", "agents", "reward"): torch.ones(2, 3, 1),
        ...         ("next", "terminated"): torch.zeros_like(end),
        ...         ("next", "truncated"): end,
        ...     },
        ...     batch_size=[2],
        ... )
        >>> path = tempfile.mkdtemp() + "/dataset"
        >>> bounds = {"agents": {"low": -torch.ones(3, 1), "high": torch.ones(3, 1)}}
        >>> groups = {"agents": ["agent_0", "agent_1", "agent_2"]}
        >>> with DatasetWriter(path, groups=groups, action_bounds=bounds) as writer:
        ...     writer.extend(episode)
        >>> OfflineDataset(path).metadata.episode_return["mean"]
        2.0
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        groups: Mapping[str, Sequence[str]],
        action_bounds: Mapping[str, Mapping[str, Any]],
        task: Mapping[str, Any] | None = None,
        id: str | None = None,
        references: Mapping[str, float | None] | None = None,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        self.groups = {group: list(agents) for group, agents in groups.items()}
        self.metadata: DatasetMetadata | None = None
        for group, agents in self.groups.items():
            if group in _RESERVED or not agents or not key_name(group):
                raise DatasetError(
                    f"expected groups with agents and names other than {', '.join(_RESERVED)}, "
                    f"found {group!r} with {len(agents)} agents; rename or drop the group"
                )
        if set(action_bounds) != set(self.groups) or not self.groups:
            raise DatasetError(
                f"expected action bounds for each group of {list(self.groups)}, "
                f"found some for {list(action_bounds)}; give one low and one high per group"
            )
        self._bounds = {
            group: {side: _as_list(sides.get(side)) for side in ("low", "high")}
            for group, sides in action_bounds.items()
        }
        self._about = {
            "id": id,
            "task": dict(task) if task else None,
            "references": dict(references) if references else None,
            "source": {**(source or {}), "versions": versions()},
        }
        check_about(self._about)  # not only at the end, when all would be lost
        self._files: dict[str, TensorFile] = {}
        self._limits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._statistics = EpisodeStatistics()
        self._counts = dict.fromkeys(("transitions", "episodes", "terminated", "truncated"), 0)
        self._finished = False
        self._folder = AtomicFolder(path)

    def extend(self, data: TensorDictBase) -> None:
        """Append whole episodes.

        Args:
            data: transitions ``[t]`` in time order, the last one an episode's end, in TorchRL's
                layout: ``<group>/observation``, ``<group>/action``, ``next/<group>/reward``
                ``[t, n, 1]``, ``next/terminated`` and ``next/truncated`` ``[t, 1]``, and so on.
                ``next/done`` may be left out. Episodes are numbered here, whatever ``episode``
                says.

        Raises:
            DatasetError: if keys, shapes or dtypes are not those of transitions, or differ from
                the chunk before; if a value is NaN or infinite or an action out of bounds; if the
                last transition ends no episode; if the disk is full.
        """
        if self._finished:
            raise DatasetError(
                f"expected a dataset still being written, found {self._folder.path} finished or "
                "given up; write a new one"
            )
        tensors = self._read_chunk(data)
        done = tensors["next/done"].flatten()
        self._check_values(tensors, done)
        ends = done.long()
        tensors["episode"] = self._counts["episodes"] + torch.cumsum(ends, 0) - ends
        try:
            with self._folder.disk_errors():
                for name, values in tensors.items():
                    self._files[name].append(values)
        except BaseException:  # some files have the chunk, others not: there is no going on
            self.abort()
            raise
        self._statistics.add(
            team_reward([tensors[f"next/{group}/reward"] for group in self.groups]), done
        )
        self._counts["transitions"] += len(done)
        for name, key in (("episodes", "done"), ("terminated",) * 2, ("truncated",) * 2):
            self._counts[name] += int(tensors[f"next/{key}"].sum())

    @property
    def transitions(self) -> int:
        """Number of transitions so far."""
        return self._counts["transitions"]

    @property
    def episodes(self) -> int:
        """Number of episodes so far."""
        return self._counts["episodes"]

    def close(self) -> DatasetMetadata:
        """Finish the dataset and give it its name; again, only tells what it says about itself.

        Raises:
            DatasetError: if there are no transitions, ``path`` has appeared meanwhile, or the disk
                is full; nothing is left then.
        """
        if self._finished and self.metadata is not None:
            return self.metadata
        try:
            if not self.transitions or self._finished:
                raise DatasetError(
                    "expected at least one episode, found no transitions; nothing was written"
                )
            with self._folder.disk_errors():
                self.metadata = self._finish()
                self._folder.commit()
                self._finished = True
        except BaseException:
            self.abort()
            raise
        return self.metadata

    def abort(self) -> None:
        """Remove everything written so far; does nothing once the dataset is finished."""
        self._finished = True
        for file in self._files.values():
            file.abandon()
        self._folder.discard()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    # ---------------------------------------------------------------- steps of the above

    def _read_chunk(self, data: TensorDictBase) -> dict[str, torch.Tensor]:
        if len(data.batch_size) != 1 or not data.batch_size[0]:
            raise DatasetError(
                "expected transitions of batch size [t], t > 0, found "
                f"{list(data.batch_size)}; flatten time and environments"
            )
        tensors = {
            key_name(key): values.detach().to("cpu")
            for key, values in data.items(include_nested=True, leaves_only=True)
        }
        if "next/terminated" in tensors and "next/truncated" in tensors:
            ended = tensors["next/terminated"] | tensors["next/truncated"]
            tensors.setdefault("next/done", ended)
        tensors["episode"] = torch.zeros(len(data), dtype=torch.int64)
        specs = {name: (v.dtype, tuple(v.shape)) for name, v in sorted(tensors.items())}
        if not self._files:
            self._open_files(specs)
        found = {name: (dtype, shape[1:]) for name, (dtype, shape) in specs.items()}
        expected = {name: (file.dtype, file.shape) for name, file in self._files.items()}
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise DatasetError(
                    f"expected {name} to be {expected.get(name, 'absent')} as in the chunks "
                    f"before, found {found.get(name, 'nothing')}; give every chunk the same keys"
                )
        return {name: tensors[name] for name in specs}

    def _open_files(self, specs: Mapping[str, checks.Spec]) -> None:
        raise_first(checks.find_layout(specs, self.groups))
        raise_first(checks.find_bounds(self._bounds, specs))
        for group, sides in self._bounds.items():
            dtype = specs[f"{group}/action"][0]
            low, high = (torch.tensor(sides[side], dtype=dtype) for side in ("low", "high"))
            self._limits[group] = (low, high)
        with self._folder.disk_errors():
            for name, (dtype, shape) in specs.items():
                path = self._folder.folder / tensor_file(name)
                self._files[name] = TensorFile(path, dtype, shape[1:])

    def _check_values(self, tensors: Mapping[str, torch.Tensor], done: torch.Tensor) -> None:
        row = self.transitions
        for name, values in tensors.items():
            raise_first(checks.find_values(name, values, row))
        for group, (low, high) in self._limits.items():
            name = f"{group}/action"
            raise_first(checks.find_actions(name, tensors[name], low, high, row))
        flags = [tensors[name] for name in checks.FLAGS]
        raise_first(checks.find_flags(flags[0], flags[1], flags[2], row))
        if not done[-1]:
            raise DatasetError(
                "expected whole episodes, found a chunk whose last transition is neither "
                "terminated nor truncated; mark where the recording stopped as truncated"
            )

    def _finish(self) -> DatasetMetadata:
        tensors = {n: file.finish(n, self.transitions) for n, file in self._files.items()}
        index = {}
        specs = {name: (info.torch_dtype, info.shape) for name, info in tensors.items()}
        for path, content in index_files(specs).items():
            index[path] = self._folder.write(path, content)
        returns, lengths = self._statistics.summary()
        metadata = DatasetMetadata(
            groups=self.groups,
            tensors=tensors,
            index=index,
            action_bounds=self._bounds,
            counts=self._counts,
            episode_return=returns,
            episode_length=lengths,
            **self._about,  # type: ignore[arg-type]
        )
        metadata.checksum = metadata.total_checksum()
        self._folder.write(METADATA_FILE, metadata.to_json().encode())
        return metadata


def _as_list(bound: Any) -> Any:
    return bound.tolist() if hasattr(bound, "tolist") else bound
