"""What the three tasks have in common: a world's state, and the interface of a scenario."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarl_ssd.environments.mpe.physics import TINY, Bodies, Physics

__all__ = ["Scenario", "State"]

#: Steps of an episode in the offline literature.
EPISODE_STEPS = 25


@dataclass
class State:
    """Positions of all bodies and velocities of the movable ones, worlds last.

    Args:
        position: ``[2, bodies, worlds]``, the movable bodies first.
        velocity: ``[2, movers, worlds]``.
    """

    position: Tensor
    velocity: Tensor

    def where(self, mask: Tensor, other: State) -> State:
        """``other`` in the worlds where ``mask`` (``[worlds]``, bool) is true, else this state."""
        return State(
            torch.where(mask, other.position, self.position),
            torch.where(mask, other.velocity, self.velocity),
        )


class Scenario(ABC):
    """A task as functions on plain tensors: initial states, steps, observations and rewards.

    This is the fast core. :class:`~benchmarl_ssd.environments.mpe.env.MpeEnv` wraps it for
    TorchRL; a script that only wants transitions can use it directly. A scenario holds no state
    of a rollout, so one object serves any number of worlds. All of it is differentiable.

    Args:
        dtype: floating point type of states, observations and rewards.
        device: device of all tensors.

    Example:
        >>> from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
        >>> scenario = CooperativeNavigation()
        >>> state = scenario.reset(4, torch.Generator().manual_seed(0))
        >>> state, observation, reward = scenario.step(state, torch.zeros(4, 3, 2))
        >>> tuple(observation.shape), tuple(reward.shape)
        ((4, 3, 18), (4, 3))
    """

    #: name of the task, as in ``mpe/<name>``
    name: str
    #: size of a controlled agent's observation
    observation_size: int
    #: controlled agents; they are the first movable bodies
    n_agents: int
    #: a word per body that says how to draw it: agent, prey, landmark, obstacle, food, forest
    kinds: tuple[str, ...]

    def __init__(
        self,
        bodies: Bodies,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bodies = bodies
        self.dtype = dtype
        self.device = torch.device(device)
        self.physics = Physics(bodies, dtype, self.device)

    @abstractmethod
    def reset(self, worlds: int, generator: torch.Generator | None = None) -> State:
        """Draw ``worlds`` initial states: positions uniform, velocities zero.

        Args:
            worlds: how many.
            generator: source of randomness, on the CPU; torch's global one by default.
        """

    @abstractmethod
    def observe(self, state: State) -> Tensor:
        """Observations of the controlled agents, ``[worlds, n_agents, observation_size]``."""

    @abstractmethod
    def rewards(self, state: State) -> Tensor:
        """Rewards of the controlled agents in ``state``, ``[worlds, n_agents]``."""

    def complete_action(self, state: State, action: Tensor) -> Tensor:
        """Actions of all movable bodies, ``[2, movers, worlds]``, given those of the agents."""
        return to_worlds_last(action)

    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        """Advance every world by one step.

        Args:
            state: the states before the step.
            action: ``[worlds, n_agents, 2]``; components are clamped to [-1, 1].

        Returns:
            The next state, its observations ``[worlds, n_agents, observation_size]`` and its
            rewards ``[worlds, n_agents]``: both are taken after the step.
        """
        forces = self.complete_action(state, action.clamp(-1.0, 1.0))
        state = State(*self.physics.step(state.position, state.velocity, forces))
        return state, self.observe(state), self.rewards(state)

    def uniform(
        self, count: int, worlds: int, half_width: float, generator: torch.Generator | None
    ) -> Tensor:
        """``[2, count, worlds]`` coordinates drawn uniformly from ``[-half_width, half_width]``."""
        # Drawn world by world, so that the first worlds of a larger batch are the same ones, and on
        # the CPU, so that one seed gives the same ones on every device.
        draw = torch.rand(worlds, count, 2, generator=generator, dtype=self.dtype)
        return (to_worlds_last(draw.to(self.device)) * 2.0 - 1.0) * half_width


def to_worlds_last(values: Tensor) -> Tensor:
    """``[worlds, rows, 2]`` to a contiguous ``[2, rows, worlds]``."""
    return values.permute(2, 1, 0).contiguous()


def distances(a: Tensor, b: Tensor) -> Tensor:
    """All distances between two sets of points.

    Args:
        a: ``[2, n, worlds]``.
        b: ``[2, m, worlds]``.

    Returns:
        ``[n, m, worlds]``.
    """
    return (a.unsqueeze(2) - b.unsqueeze(1)).square().sum(0).clamp_min(TINY).sqrt()
