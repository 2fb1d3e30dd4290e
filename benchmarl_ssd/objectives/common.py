"""What the offline losses of a team share."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule
from torchrl.objectives.utils import _reduce

from benchmarl_ssd.modules import ActionScaler


class OfflineLoss(LossModule):
    """Base of the losses on logged transitions of a group of agents.

    Actions have the shape ``[*B, n, d]`` (batch, agents, action), rewards ``[*B, n, 1]``;
    ``terminated`` and ``done`` are the team's, ``[*B, 1]``, or every agent's, ``[*B, n, 1]``.

    Args:
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1]; the identity if
            not given.
        reduction (str): ``mean``, ``sum`` or ``none`` over the batch.

    Raises:
        ValueError: if the reduction is unknown.
    """

    @dataclass
    class _AcceptedKeys:
        """The entries a loss reads; each can be renamed with ``set_keys``.

        Attributes:
            action: joint action of the group.
            reward: rewards of the agents, under ``next``.
            done: end of the episode, for whatever reason, under ``next``.
            terminated: end of the task (not of time), under ``next``.
            value: output of the state-value network.
            state_action_value: output of the action-value networks.
        """

        action: NestedKey = ("agents", "action")
        reward: NestedKey = ("agents", "reward")
        done: NestedKey = "done"
        terminated: NestedKey = "terminated"
        value: NestedKey = "state_value"
        state_action_value: NestedKey = "state_action_value"

    tensor_keys: _AcceptedKeys
    loss_names: tuple[str, ...] = ()
    reward_scale: float = 1.0

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        # TorchRL looks for a loss's networks in the annotations of the class itself only; those of
        # the classes that it is put together from are its own too.
        merged: dict = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, OfflineLoss):
                merged.update(base.__annotations__)
        cls.__annotations__ = merged

    def __init__(self, action_scaler: ActionScaler | None = None, reduction: str = "mean") -> None:
        self._in_keys: list[NestedKey] | None = None
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"expected reduction to be one of mean, sum, none; found {reduction!r}"
            )
        self.reduction = reduction
        self.action_scaler = action_scaler if action_scaler is not None else ActionScaler()

    # Subclasses that inherit from several losses collect the keys of all of them.
    def _read_keys(self) -> list[NestedKey]:
        return [self.tensor_keys.action]

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that the loss reads."""
        if self._in_keys is None:
            keys = [unravel_key(key) for key in self._read_keys()]
            self._in_keys = list(dict.fromkeys(keys))
        return self._in_keys

    @in_keys.setter
    def in_keys(self, values: list[NestedKey]) -> None:
        self._in_keys = values

    @property
    def out_keys(self) -> list[NestedKey]:
        """Entries that the loss writes."""
        return list(self.loss_names)

    @out_keys.setter
    def out_keys(self, values: list[NestedKey]) -> None:
        self.loss_names = tuple(str(value) for value in values)

    def call_key(self) -> Hashable:
        """What decides, beside the shapes of a batch, which operations the next call consists of.

        A call that was recorded, as a CUDA graph is, stands for others of the same key; one of the
        key ``None`` for none.
        """
        return ()

    def begin_call(self) -> None:
        """Set what the next call reads of the host's numbers, where it can be recorded.

        A replayed recording is put between this and :meth:`end_call`.
        """

    def end_call(self) -> None:
        """Count a call that was replayed."""

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        self._in_keys = None

    def _team_flag(self, flag: Tensor, action: Tensor) -> Tensor:
        """Turn every agent's flag into the team's: true once it is true for all."""
        return flag.all(-2) if flag.ndim == action.ndim else flag

    def team_transition(self, tensordict: TensorDictBase, *agents: int) -> TensorDictBase:
        """The team's reward, done and terminated of a transition, under ``next``.

        The team's reward is the mean over its agents, which keeps its scale independent of their
        number. The input is not changed.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            *agents (int): with a number of agents, every agent is given the team's entries,
                ``[*B, n, 1]`` instead of ``[*B, 1]``.
        """
        keys = self.tensor_keys
        action = tensordict.get(keys.action)
        given = tensordict.get("next")
        reward = given.get(keys.reward)
        reward = reward.mean(-2) if reward.ndim == action.ndim else reward
        team = {
            "team_reward": reward * self.reward_scale,
            "team_done": self._team_flag(given.get(keys.done), action),
            "team_terminated": self._team_flag(given.get(keys.terminated), action),
        }
        if agents:
            shape = (*tensordict.batch_size, *agents, 1)
            team = {name: entry.unsqueeze(-2).expand(shape) for name, entry in team.items()}
        return TensorDict({"next": team}, batch_size=tensordict.batch_size)

    def on_share(
        self,
        share: float,
        loss: Callable[[TensorDictBase], tuple[Tensor, dict[str, Tensor]]],
        tensordict: TensorDictBase,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Take a loss on the first rows of a batch only, with the same expected gradient.

        Rows that are left out have a loss of 0, the others one that is larger by as much.

        Args:
            share (float): of the batch's rows, in (0, 1].
            loss (callable): from logged transitions to per-sample losses ``[*B]`` and metrics.
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
        """
        size = tensordict.batch_size[0] if tensordict.ndim else 1
        kept = max(1, round(share * size))
        if kept == size:
            return loss(tensordict)
        found, metrics = loss(tensordict[:kept])
        rest = found.new_zeros(size - kept, *found.shape[1:])
        return torch.cat([found * (size / kept), rest]), metrics

    def reduce(self, losses: dict[str, Tensor], **metrics: Tensor) -> TensorDictBase:
        """Gather per-sample losses ``[*B]`` and scalar metrics into the output."""
        if self.reduction == "none":
            batch = next(iter(losses.values())).shape
            return TensorDict(losses, batch_size=batch)
        reduced = {name: _reduce(loss, self.reduction) for name, loss in losses.items()}
        return TensorDict({**reduced, **{key: v.detach() for key, v in metrics.items()}})


def is_recorded() -> bool:
    """Whether operations are being recorded as a CUDA graph, and not carried out."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
