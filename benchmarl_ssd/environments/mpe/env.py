"""The three MPE tasks as a vectorised TorchRL environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
from benchmarl_ssd.environments.mpe.predator_prey import PredatorPrey
from benchmarl_ssd.environments.mpe.rendering import render_frame
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS, Scenario, State
from benchmarl_ssd.environments.mpe.world import World

__all__ = ["GROUP", "SCENARIOS", "MpeEnv", "make_scenario"]

GROUP = "agents"
SCENARIOS: Mapping[str, type[CooperativeNavigation] | type[PredatorPrey] | type[World]] = {
    scenario.name: scenario for scenario in (CooperativeNavigation, PredatorPrey, World)
}


def make_scenario(name: str, **settings: Any) -> Scenario:
    """Build a scenario by the name of its task.

    Args:
        name: ``cooperative_navigation``, ``predator_prey`` or ``world``.
        settings: keyword arguments of the scenario.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> make_scenario("cooperative_navigation", n_agents=5).observation_size
        30
    """
    if name not in SCENARIOS:
        raise ValueError(f"unknown MPE task {name!r}: expected one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name](**settings)


class MpeEnv(EnvBase):
    """Cooperative Navigation, Predator-Prey or World in ``num_envs`` parallel worlds.

    One group, ``agents``, holds the n controlled agents; a prey is part of the environment.
    With B worlds, the keys are ``("agents", "observation")`` of shape ``[B, n, size]``,
    ``("agents", "action")`` of shape ``[B, n, 2]`` in [-1, 1] (actions outside are clamped),
    ``("next", "agents", "reward")`` of shape ``[B, n, 1]`` and at the root ``done``,
    ``terminated`` and ``truncated`` of shape ``[B, 1]``. Episodes are truncated after
    ``max_steps`` and never terminate.

    Args:
        scenario: name of the task, or a :class:`Scenario`.
        num_envs: number of worlds B.
        max_steps: steps of an episode; the literature's 25 by default, ``None`` for no end.
        seed: seed of the initial positions; ``None`` draws one from torch's global generator.
        device: device of all tensors; a given scenario brings its own.
        dtype: floating point type; a given scenario brings its own.
        settings: further keyword arguments of the scenario, such as ``n_agents``.

    Example:
        >>> env = MpeEnv("cooperative_navigation", num_envs=8, seed=0)
        >>> rollout = env.rollout(25)
        >>> tuple(rollout["agents", "observation"].shape)
        (8, 25, 3, 18)
        >>> last = rollout["next"][:, -1]
        >>> bool(last["truncated"].all()), bool(last["terminated"].any())
        (True, False)
    """

    batch_locked = True

    def __init__(
        self,
        scenario: str | Scenario,
        num_envs: int = 1,
        max_steps: int | None = EPISODE_STEPS,
        seed: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> None:
        if isinstance(scenario, str):
            scenario = make_scenario(scenario, dtype=dtype, device=device, **settings)
        elif settings:
            raise ValueError(f"a ready scenario takes no settings, got {sorted(settings)}")
        super().__init__(device=scenario.device, batch_size=torch.Size([num_envs]))
        self.scenario = scenario
        self.max_steps = max_steps
        self.group_map = {GROUP: [f"agent_{i}" for i in range(scenario.n_agents)]}
        self._state: State | None = None
        self._steps = torch.zeros(num_envs, 1, dtype=torch.long, device=self.device)
        self._terminated = torch.zeros(num_envs, 1, dtype=torch.bool, device=self.device)
        self._make_specs()
        self.set_seed(int(torch.randint(2**31, ())) if seed is None else seed)

    def _make_specs(self) -> None:
        worlds, n = self.batch_size[0], self.scenario.n_agents
        floats: dict[str, Any] = {"dtype": self.scenario.dtype, "device": self.device}

        def grouped(**leaves: Any) -> Composite:
            shape = self.batch_size
            group = Composite(leaves, shape=(*shape, n), device=self.device)
            return Composite({GROUP: group}, shape=shape, device=self.device)

        size = self.scenario.observation_size
        self.observation_spec = grouped(observation=Unbounded((worlds, n, size), **floats))
        self.action_spec = grouped(action=Bounded(-1.0, 1.0, (worlds, n, 2), **floats))
        self.reward_spec = grouped(reward=Unbounded((worlds, n, 1), **floats))
        flag = Categorical(2, shape=(worlds, 1), dtype=torch.bool, device=self.device)
        self.done_spec = Composite(
            {key: flag.clone() for key in ("done", "terminated", "truncated")},
            shape=self.batch_size,
            device=self.device,
        )

    @property
    def state(self) -> State:
        """The worlds' current state.

        Raises:
            RuntimeError: before the first reset.
        """
        if self._state is None:
            raise RuntimeError("the environment has no state yet: call reset() first")
        return self._state

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            self._generator = torch.Generator().manual_seed(seed)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None or self._state is None or bool(mask.all()):
            self._state = self.scenario.reset(self.batch_size[0], self._generator)
            self._steps = torch.zeros_like(self._steps)
        else:
            fresh = self.scenario.reset(self.batch_size[0], self._generator)
            self._state = self._state.where(mask.view(-1), fresh)
            self._steps = self._steps.masked_fill(mask.view(-1, 1), 0)
        return self._output(self.scenario.observe(self._state))

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get((GROUP, "action"))
        self._state, observation, reward = self.scenario.step(self.state, action)
        self._steps = self._steps + 1
        return self._output(observation, reward)

    def _output(self, observation: Tensor, reward: Tensor | None = None) -> TensorDict:
        group = {"observation": observation}
        if reward is not None:
            group["reward"] = reward.unsqueeze(-1)
        if self.max_steps is None or reward is None:
            truncated = self._terminated.clone()
        else:
            truncated = self._steps >= self.max_steps
        shape = self.batch_size
        agents = TensorDict._new_unsafe(
            group, batch_size=torch.Size((*shape, self.scenario.n_agents)), device=self.device
        )
        return TensorDict._new_unsafe(
            {
                GROUP: agents,
                "done": truncated.clone(),
                "terminated": self._terminated.clone(),
                "truncated": truncated,
            },
            batch_size=shape,
            device=self.device,
        )

    def render(
        self, mode: str = "rgb_array", world: int = 0, size: tuple[int, int] = (256, 256)
    ) -> np.ndarray:
        """Draw one world.

        Args:
            mode: only ``rgb_array`` exists.
            world: which of the worlds to draw.
            size: height and width of the frame in pixels.

        Returns:
            A frame of shape ``[height, width, 3]`` and type ``uint8``.
        """
        if mode != "rgb_array":
            raise ValueError(f"MpeEnv renders in mode 'rgb_array' only, got {mode!r}")
        position = self.state.position[:, :, world].detach().t().cpu().numpy()
        return render_frame(position, self.scenario.bodies.size, self.scenario.kinds, size)
