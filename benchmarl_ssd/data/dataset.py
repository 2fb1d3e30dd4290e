"""Opens a dataset's folder as a TorchRL replay buffer, without copying it and read-only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import ImmutableDatasetWriter, TensorStorage
from torchrl.data.datasets.common import BaseDatasetExperienceReplay

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import METADATA_FILE, name_key
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.validation import Check, validate


class OfflineDataset(BaseDatasetExperienceReplay):
    """A recorded dataset as a TorchRL replay buffer that cannot be written to.

    The values stay in the folder's files, mapped privately: nothing is copied into memory, several
    processes share the pages, and no write can reach the files.

    Args:
        path: the dataset's folder.
        batch_size: transitions per sample, or None to say it at each ``sample``.
        sampler: a TorchRL sampler; None samples uniformly with replacement.
        transform: a TorchRL transform for sampled batches.
        check: what to verify on opening. ``"fast"``: metadata and the files' sizes; ``"full"``:
            every value and the files' checksums, too; ``"auto"``: full up to 4 GB, fast beyond.
        **kwargs: further arguments of TorchRL's ``TensorDictReplayBuffer``, such as ``prefetch``.

    Raises:
        DatasetError: if the folder is no dataset, or a damaged one.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> dataset = OfflineDataset(write_example(), batch_size=32)
        >>> dataset.sample()["agents", "action"].shape
        torch.Size([32, 2, 1])
        >>> len(dataset), dataset.metadata.episodes
        (20, 4)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        batch_size: int | None = None,
        sampler: Any = None,
        transform: Any = None,
        check: Check = "auto",
        **kwargs: Any,
    ) -> None:
        self._path = Path(path)
        self.metadata: DatasetMetadata = validate(self._path, check)
        data = map_tensors(self._path, self.metadata)
        super().__init__(
            storage=TensorStorage(data),
            sampler=sampler,
            writer=ImmutableDatasetWriter(),
            batch_size=batch_size,
            transform=transform,
            **kwargs,
        )

    @property
    def data_path(self) -> Path:
        """The dataset's folder."""
        return self._path

    @property
    def data_path_root(self) -> Path:
        """The folder that holds the dataset's folder."""
        return self._path.parent

    @property
    def data(self) -> TensorDictBase:
        """All transitions in time order, ``[T]``, mapped from the files."""
        return self._storage._storage

    def group_data(self, group: str) -> TensorDictBase:
        """Give what is needed to train one group, without copying.

        Args:
            group: the group's name.

        Returns:
            TensorDict ``[T]`` without the other groups' entries.

        Raises:
            DatasetError: if there is no such group.

        Example:
            >>> from benchmarl_ssd.data.examples import write_example
            >>> dataset = OfflineDataset(write_example())
            >>> dataset.group_data("agents")["next", "agents", "reward"].shape
            torch.Size([20, 2, 1])
        """
        if group not in self.metadata.groups:
            raise DatasetError(
                f"expected one of the dataset's groups {list(self.metadata.groups)}, "
                f"found {group!r}; choose one of these"
            )
        others = [name for name in self.metadata.groups if name != group]
        excluded: list[Any] = [*others, *(("next", name) for name in others)]
        return self.data.exclude(*excluded)

    def _is_downloaded(self) -> bool:
        return (self._path / METADATA_FILE).is_file()

    def state_dict(self) -> dict[str, Any]:
        """Give nothing: the data stays in its folder, checkpoints do not repeat it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, as there is no state."""

    def add(self, data: TensorDictBase) -> NoReturn:
        """Refuse: datasets are read-only."""
        raise self._read_only("added to")

    def extend(self, tensordicts: TensorDictBase, **kwargs: Any) -> NoReturn:
        """Refuse: datasets are read-only."""
        raise self._read_only("extended")

    def empty(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: datasets are read-only."""
        raise self._read_only("emptied")

    def loads(self, path: Any) -> NoReturn:
        """Refuse: datasets are read-only."""
        raise self._read_only("loaded into")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise self._read_only("assigned to")

    def delete(self) -> NoReturn:
        """Refuse: the folder is the user's; remove it by hand if that is wanted."""
        raise self._read_only("deleted")

    def _read_only(self, what: str) -> DatasetError:
        return DatasetError(
            f"a dataset is read-only and cannot be {what}; "
            f"write a new one with DatasetWriter (this one is {self._path})"
        )

    def __repr__(self) -> str:
        return (
            f"OfflineDataset({str(self._path)!r}, batch_size={self._batch_size})\n{self.metadata!r}"
        )


def map_tensors(path: Path, metadata: DatasetMetadata) -> TensorDict:
    """Map a dataset's files into memory, privately: writes never reach the files.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself, already validated against the files.

    Returns:
        TensorDict ``[T]`` on the CPU.
    """
    data = TensorDict({}, batch_size=[metadata.transitions], device="cpu")
    for name, info in metadata.tensors.items():
        size = info.bytes // info.torch_dtype.itemsize
        values = torch.from_file(
            str(path / info.file), shared=False, size=size, dtype=info.torch_dtype
        )
        data.set(name_key(name), values.view(info.shape))
    return data
