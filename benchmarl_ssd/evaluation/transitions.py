"""A dataset's transitions as off-policy evaluation reads them: one team, one reward, one clock."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.data.statistics import sample_rows, team_reward

_STATISTICS_ROWS = 50_000


class TeamTransitions:
    r"""All groups of a dataset as one agent: :math:`(x_t, a_t, r_t, x_{t+1})` and the step t.

    :math:`x` joins what all agents observe and the global state where there is one, standardised;
    :math:`a` joins the agents' actions, real numbers scaled to [-1, 1] by their bounds, choices
    one-hot; :math:`r` is the reward that a return adds up: the mean over a group's agents, then
    over groups. Observations stay in the dataset's files until they are asked for.

    Args:
        dataset (OfflineDataset): the data.
        device (torch.device): where what is asked for goes.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> data = TeamTransitions(OfflineDataset(write_example()))
        >>> data.horizon, data.starts.tolist(), data.step[:6].tolist()
        (5, [0, 5, 10, 15], [0, 1, 2, 3, 4, 0])
        >>> data.features(torch.tensor([[0, 1]])).shape, data.actions(torch.tensor([0])).shape
        (torch.Size([1, 2, 6]), torch.Size([1, 2]))
    """

    def __init__(self, dataset: OfflineDataset, device: torch.device | str = "cpu") -> None:
        self.dataset, self.device = dataset, torch.device(device)
        metadata, data = dataset.metadata, dataset.data
        self.groups = metadata.groups
        ends = data["next", "done"].flatten().nonzero().flatten()
        #: first row of each episode, ``[E]``
        self.starts = torch.cat([ends.new_zeros(1), ends[:-1] + 1])
        #: steps of each episode, ``[E]``
        self.lengths = ends - self.starts + 1
        #: the time limit: steps of the longest episode
        self.horizon = int(self.lengths.max())
        #: step within its episode of each transition, from 0, ``[T]``
        self.step = torch.arange(len(data)) - self.starts.repeat_interleave(self.lengths)
        #: the team's reward of each transition, ``[T]``
        self.reward = team_reward([data["next", group, "reward"] for group in self.groups]).float()
        #: whether the task, not the time, ended with a transition, ``[T]``
        self.terminated = data["next", "terminated"].flatten().clone()
        actions = {f"{group}/action" for group in self.groups}
        self._observed: list[NestedKey] = [
            name_key(name)
            for name in sorted(metadata.tensors)
            if f"next/{name}" in metadata.tensors and name not in actions
            if not name.endswith("/action_mask")  # what is allowed is no news of the state
        ]
        self._mean, self._scale = torch.zeros(()), torch.ones(())
        sample = self.features(sample_rows(len(data), _STATISTICS_ROWS))
        self._mean, self._scale = sample.mean(0), sample.std(0, correction=0).clamp_min(1e-3)

    def features(self, rows: Tensor, following: bool = False) -> Tensor:
        """Standardised :math:`x`, or that of the next step.

        Args:
            rows: transitions, any shape ``[*B]``.
            following: whether the next step's is wanted.

        Returns:
            Float ``[*B, x]``.
        """
        data = self.dataset.data
        source = data.get("next") if following else data
        parts = [source.get(key)[rows].flatten(rows.ndim).float() for key in self._observed]
        return (torch.cat(parts, -1).to(self.device) - self._mean) / self._scale

    def actions(self, rows: Tensor) -> Tensor:
        """The logged joint actions, encoded.

        Args:
            rows: transitions, any shape ``[*B]``.

        Returns:
            Float ``[*B, a]``.
        """
        data = self.dataset.data
        return self._encode({group: data.get((group, "action"))[rows] for group in self.groups})

    def encode(self, acted: TensorDictBase) -> Tensor:
        """Joint actions as a policy has written them, encoded.

        Args:
            acted: with ``(group, "action")`` ``[*B, n, ...]`` of every group.

        Returns:
            Float ``[*B, a]``.
        """
        return self._encode({group: acted.get((group, "action")) for group in self.groups})

    def _encode(self, actions: dict[str, Tensor]) -> Tensor:
        return torch.cat([self.encode_group(group, a) for group, a in actions.items()], -1)

    def encode_group(self, group: str, action: Tensor) -> Tensor:
        """One group's actions, encoded.

        Args:
            group: its name.
            action: ``[*B, n, d]`` real or one-hot, or ``[*B, n]`` choices.

        Returns:
            Float ``[*B, n * d]`` or ``[*B, n * choices]``.
        """
        low, high = self.dataset.metadata.bounds(group)
        if action.dtype.is_floating_point:
            low, high = low.to(action), high.to(action)
            encoded = 2 * (action - low) / (high - low) - 1
        elif low.ndim == 1:
            encoded = one_hot(action.long(), int(high.max()) + 1)
        else:
            encoded = action
        return encoded.flatten(-2).float().to(self.device)

    def observations(self, rows: Tensor, following: bool = False) -> TensorDictBase:
        """What the policies read.

        Args:
            rows: transitions ``[*B]``.
            following: whether the next step's is wanted.

        Returns:
            TensorDict ``[*B]`` without actions, rewards and flags.
        """
        data = self.dataset.data
        source = data.get("next") if following else data
        keys = [
            name_key(name)
            for name in self.dataset.metadata.tensors
            if f"next/{name}" in self.dataset.metadata.tensors and not name.endswith("/action")
        ]
        return source.select(*keys)[rows].to(self.device)

    def returns_to_go(self) -> Tensor:
        """Sum of an episode's rewards from each transition on, ``[T]``."""
        total = self.reward.double().cumsum(0)
        last = total[self.starts + self.lengths - 1].repeat_interleave(self.lengths)
        return (last - total + self.reward).float()
