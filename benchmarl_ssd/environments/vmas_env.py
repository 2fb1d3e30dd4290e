"""A VMAS environment that tells a time limit from a real ending."""

from __future__ import annotations

from typing import Any

from tensordict import TensorDictBase
from torchrl.data import Categorical, Composite
from torchrl.envs.libs.vmas import VmasEnv


class TimeLimitedVmasEnv(VmasEnv):
    r"""VMAS environment with root ``terminated`` and ``truncated`` told apart.

    VMAS has one done flag, and TorchRL reports it as ``terminated``. A critic then learns that the
    world ends at the time limit,

    .. math:: Q(s_{T-1}, a) = r \quad\text{instead of}\quad r + \gamma V(s_T),

    although nothing ended but the recording. Here a step past ``max_steps`` sets ``truncated``,
    the scenario's own ``done()`` sets ``terminated``, and ``done`` is either.

    Args:
        *args: as :class:`~torchrl.envs.libs.vmas.VmasEnv`.
        **kwargs: as :class:`~torchrl.envs.libs.vmas.VmasEnv`.

    >>> env = TimeLimitedVmasEnv("simple_spread", num_envs=2, max_steps=3, seed=0)
    >>> last = env.rollout(3)[:, -1]["next"]
    >>> bool(last["truncated"].all()), bool(last["terminated"].any())
    (True, False)
    """

    def _make_specs(self, env: Any) -> None:
        super()._make_specs(env)
        flag = Categorical(n=2, shape=(1,), dtype=self.full_done_spec["done"].dtype)
        self.full_done_spec_unbatched = Composite(
            {name: flag.clone() for name in ("done", "terminated", "truncated")}
        ).to(self.device)

    def _tell_apart(self, tensordict: TensorDictBase) -> TensorDictBase:
        terminated = self.read_done(self._env.scenario.done().clone())
        limit = self._env.max_steps
        if limit is None:
            truncated = terminated.new_zeros(terminated.shape)
        else:
            truncated = self.read_done(self._env.steps >= limit)
        tensordict.set("terminated", terminated)
        tensordict.set("truncated", truncated)
        return tensordict.set("done", terminated | truncated)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        return self._tell_apart(super()._reset(tensordict, **kwargs))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self._tell_apart(super()._step(tensordict))
