"""The replay buffer that BenchMARL's loop trains one group from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDictBase
from torchrl.data import (
    ImmutableDatasetWriter,
    RandomSampler,
    SliceSampler,
    TensorDictReplayBuffer,
    TensorStorage,
)

from benchmarl_ssd.data.dataset import OfflineDataset
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.following import logged_next_action


class OfflineReplayBuffer(TensorDictReplayBuffer):
    """One group's part of a dataset, behind the interface of the buffer that a training loop fills.

    Whatever the loop hands over is ignored: the data is the dataset's, and stays so. Checkpoints of
    the buffer are empty. Sampling uses torch's global random state.

    Args:
        dataset: where the data is.
        group: the group to train.
        batch_size: transitions per sample.
        device: where samples lie. Data for another device than the CPU is copied there, once.
        sequence_length: None samples single transitions ``[batch_size]``; L samples windows of L
            consecutive steps of one episode, ``[batch_size // L, L]``, for recurrent policies, with
            ``is_init`` ``[batch_size // L, L, 1]`` True where a window starts.
        transform: a TorchRL transform for sampled batches.
        next_action: also give what was done next, ``("next", group, "action")``, for algorithms
            that bootstrap from logged actions, and ``("next", "acted")`` ``[*B, 1]``, whether there
            was such an action. At an episode's last row there was none: the entry is zero there,
            and never another episode's.
        entries: what is sampled beside or in place of the dataset's entries, by key: tensors
            ``[T, ...]`` of all transitions.

    Raises:
        DatasetError: if there is no such group, the sizes make no sense, or no episode is as long
            as ``sequence_length``.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> dataset = OfflineDataset(write_example())
        >>> OfflineReplayBuffer(dataset, "agents", batch_size=8).sample().batch_size
        torch.Size([8])
        >>> windows = OfflineReplayBuffer(dataset, "agents", batch_size=8, sequence_length=4)
        >>> windows.sample()["is_init"].squeeze(-1).tolist()
        [[True, False, False, False], [True, False, False, False]]
        >>> followed = OfflineReplayBuffer(dataset, "agents", batch_size=8, next_action=True)
        >>> followed.sample()["next", "agents", "action"].shape
        torch.Size([8, 2, 1])
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        group: str,
        batch_size: int,
        device: str | torch.device = "cpu",
        sequence_length: int | None = None,
        transform: Any = None,
        next_action: bool = False,
        entries: Mapping[Any, torch.Tensor] | None = None,
    ) -> None:
        if batch_size < 1 or (sequence_length is not None and sequence_length < 1):
            raise DatasetError(
                f"expected batch_size and sequence_length of at least 1, found {batch_size} and "
                f"{sequence_length}; choose larger ones"
            )
        data = dataset.group_data(group).copy()  # of the keys; the values stay in their files
        for key, values in (entries or {}).items():
            data.set(key, values)
        sampler: Any = RandomSampler()
        if sequence_length is not None:
            sampler = _slice_sampler(data["episode"], batch_size, sequence_length)
            batch_size = batch_size // sequence_length * sequence_length
        if torch.device(device).type != "cpu":
            data = data.to(device)
        super().__init__(
            storage=TensorStorage(data, device=device),
            sampler=sampler,
            writer=ImmutableDatasetWriter(),
            batch_size=batch_size,
            transform=transform,
        )
        self.group = group
        self.sequence_length = sequence_length
        self._rows = data if next_action else None

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Sample as TorchRL's buffers do; windows come as ``[windows, sequence_length]``.

        Args:
            *args: as for ``TensorDictReplayBuffer.sample``.
            **kwargs: as for ``TensorDictReplayBuffer.sample``.

        Returns:
            A TensorDict, or that and its info if asked for by ``return_info=True``.
        """
        sampled = super().sample(*args, **kwargs)
        if isinstance(sampled, tuple):
            return self._completed(sampled[0]), *sampled[1:]
        return self._completed(sampled)

    def _completed(self, data: TensorDictBase) -> TensorDictBase:
        if self._rows is not None:
            # Read where the next row lies, instead of keeping all actions twice.
            index = data.get("index").reshape(-1)
            action, acted = logged_next_action(self._rows, self.group, index)
            data = data.set(("next", self.group, "action"), action).set(("next", "acted"), acted)
        return data if self.sequence_length is None else self._windows(data)

    def _windows(self, data: TensorDictBase) -> TensorDictBase:
        windows = data.reshape(-1, self.sequence_length)
        is_init = torch.zeros(*windows.shape, 1, dtype=torch.bool, device=windows.device)
        is_init[:, 0] = True
        # A recurrent network that reads the next steps starts anew where its window does.
        return windows.set("is_init", is_init).set(("next", "is_init"), is_init)

    def add(self, data: TensorDictBase) -> torch.Tensor:
        """Ignore what was collected.

        Args:
            data: ignored.

        Returns:
            No indices.
        """
        return torch.zeros(0, dtype=torch.long)

    def extend(self, tensordicts: TensorDictBase, **kwargs: Any) -> torch.Tensor:
        """Ignore what was collected.

        Args:
            tensordicts: ignored.
            **kwargs: ignored.

        Returns:
            No indices.
        """
        return torch.zeros(0, dtype=torch.long)

    def update_tensordict_priority(self, data: TensorDictBase) -> None:
        """Do nothing: transitions have no priorities.

        Args:
            data: ignored.
        """

    def state_dict(self) -> dict[str, Any]:
        """Give nothing: the data stays in its folder, checkpoints do not repeat it."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, as there is no state.

        Args:
            state_dict: ignored.
        """


def _slice_sampler(episode: torch.Tensor, batch_size: int, length: int) -> SliceSampler:
    if batch_size < length:
        raise DatasetError(
            f"expected a batch_size of at least sequence_length, found {batch_size} < {length}; "
            "sample larger batches or shorter windows"
        )
    lengths = torch.unique_consecutive(episode, return_counts=True)[1]
    short = int((lengths < length).sum())
    if short == len(lengths):
        raise DatasetError(
            f"expected episodes of at least sequence_length={length} steps, found none longer than "
            f"{int(lengths.max())}; shorten the sequences"
        )
    if short:
        warnings.warn(
            f"{short} of {len(lengths)} episodes are shorter than sequence_length={length} and "
            "will never be sampled",
            stacklevel=3,
        )
    # No truncated_key: a window's end is no episode's end, and the flags stay as recorded.
    return SliceSampler(
        slice_len=length,
        trajectories=episode,
        cache_values=True,
        truncated_key=None,
        strict_length=True,
    )
