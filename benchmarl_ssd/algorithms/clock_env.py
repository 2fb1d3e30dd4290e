"""A stand-in for the simulator while training from data."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import TensorSpec
from torchrl.envs import EnvBase


class ClockEnv(EnvBase):
    """Has another environment's specs and does nothing but let time pass.

    BenchMARL's loop collects before it trains. Offline there is nothing to collect, and the
    simulator must not be touched: this environment costs a fraction of a millisecond a step.

    Args:
        like (EnvBase): environment whose specs to take.
        num_envs (int): batch size, at least 1.
    """

    def __init__(self, like: EnvBase, num_envs: int) -> None:
        super().__init__(device=like.device, batch_size=[num_envs])

        def batched(spec: TensorSpec) -> TensorSpec:
            return spec.expand(num_envs, *spec.shape).clone()

        self.observation_spec = batched(like.full_observation_spec_unbatched)
        self.state_spec = batched(like.full_state_spec_unbatched)
        self.action_spec = batched(like.full_action_spec_unbatched)
        self.reward_spec = batched(like.full_reward_spec_unbatched)
        self.done_spec = batched(like.full_done_spec_unbatched)

    def rollout(self, *args: Any, **kwargs: Any) -> TensorDictBase:
        """Roll out without gradient: nobody asks for that of what is thrown away.

        Args:
            *args (Any): as for ``EnvBase.rollout``.
            **kwargs (Any): as for ``EnvBase.rollout``.
        """
        with torch.no_grad():
            return super().rollout(*args, **kwargs)

    def _blank(self) -> TensorDict:
        out = self.full_observation_spec.zero()
        return out.update(self.full_done_spec.zero())

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        return self._blank()

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._blank().update(self.full_reward_spec.zero())

    def _set_seed(self, seed: int | None) -> None:
        """Do nothing: there is no chance in it."""
