"""Predator-Prey: three predators chase a faster prey whose policy is part of the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarl_ssd.environments.common import require, require_int
from benchmarl_ssd.environments.mpe.physics import Bodies
from benchmarl_ssd.environments.mpe.prey import PreyPolicy, load_prey
from benchmarl_ssd.environments.mpe.scenario import (
    Scenario,
    State,
    distances,
    to_worlds_last,
)
from benchmarl_ssd.environments.mpe.views import Seen, Views, standard_view

__all__ = ["PredatorPrey", "Pursuit", "TaskConfig"]

PREDATORS = 3
PREDATOR_SIZE = 0.075
PREDATOR_ACCELERATION, PREDATOR_MAX_SPEED = 3.0, 1.0
PREY_ACCELERATION, PREY_MAX_SPEED = 4.0, 1.3
OBSTACLE_SIZE = 0.2
AGENT_HALF_WIDTH, LANDMARK_HALF_WIDTH = 1.0, 0.9
DISTANCE_WEIGHT = 0.1


@dataclass
class TaskConfig:
    """Options of ``mpe/predator_prey``; see ``conf/task/mpe/predator_prey.yaml``."""

    max_steps: int = MISSING
    prey_policy: str | None = MISSING

    def __post_init__(self) -> None:
        require_int("max_steps", self.max_steps, minimum=1)


class Pursuit(Scenario):
    r"""Three predators and one prey among landmarks: what Predator-Prey and World share.

    The predators' shared reward, with :math:`d_i` predator *i*'s distance to the prey and *c* the
    reward of a touch, is :math:`\sum_i (-0.1 \, d_i + c \, [d_i < s_i + s_{prey}])`.

    Args:
        landmark_sizes: radius of each landmark.
        landmark_kinds: kind of each landmark; those of kind ``obstacle`` collide.
        prey_size: radius of the prey.
        touch_reward: c, what each touching predator adds to the shared reward.
        prey_policy: a file (see :func:`~benchmarl_ssd.environments.mpe.prey.load_prey`), a
            callable from observations ``[worlds, size]`` to actions ``[worlds, 2]``, or ``None``
            for the prey that comes with the package.
        dtype: floating point type.
        device: device of all tensors.
    """

    n_agents = PREDATORS
    #: flags at the end of everyone's observation
    flags = 0
    #: weight of the prey's penalty for leaving the screen
    screen_weight = 1.0

    def __init__(
        self,
        landmark_sizes: tuple[float, ...],
        landmark_kinds: tuple[str, ...],
        prey_size: float,
        touch_reward: float,
        prey_policy: str | Path | Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            Bodies(
                size=(PREDATOR_SIZE,) * PREDATORS + (prey_size,) + landmark_sizes,
                collides=(True,) * (PREDATORS + 1)
                + tuple(kind == "obstacle" for kind in landmark_kinds),
                acceleration=(PREDATOR_ACCELERATION,) * PREDATORS + (PREY_ACCELERATION,),
                max_speed=(PREDATOR_MAX_SPEED,) * PREDATORS + (PREY_MAX_SPEED,),
            ),
            dtype,
            device,
        )
        self.kinds = ("agent",) * PREDATORS + ("prey",) + landmark_kinds
        self.touch_reward = touch_reward
        self.reach = PREDATOR_SIZE + prey_size
        # velocity, position, landmarks, three others, flags, the prey's velocity (predators only)
        self.prey_observation_size = 2 + 2 + 2 * len(landmark_kinds) + 2 * PREDATORS + self.flags
        self.observation_size = self.prey_observation_size + 2
        movers, bodies = PREDATORS + 1, len(self.kinds)
        prey_velocity = Seen("velocity", PREDATORS)
        views = [[*standard_view(i, movers, bodies), prey_velocity] for i in range(PREDATORS)]
        self._views = Views(movers, bodies, views, self.device)
        prey_view = standard_view(PREDATORS, movers, bodies)
        self._prey_view = Views(movers, bodies, [prey_view], self.device)
        self.prey_policy: Callable[[Tensor], Tensor]
        if callable(prey_policy):
            self.prey_policy = prey_policy
        else:
            self.prey_policy = self._load_prey(prey_policy)

    def _load_prey(self, path: str | Path | None) -> PreyPolicy:
        policy = load_prey(self.name, path, self.dtype, self.device)
        require(
            policy.fc1.in_features == self.prey_observation_size,
            expected=f"a prey that observes {self.prey_observation_size} entries in {self.name}",
            found=f"{policy.fc1.in_features} entries in {path}",
            mend="Choose this task's file with task.prey_policy.",
        )
        return policy

    def reset(self, worlds: int, generator: torch.Generator | None = None) -> State:
        """Draw ``worlds`` initial states: positions uniform, velocities zero."""
        movers, bodies = PREDATORS + 1, len(self.kinds)
        agents = self.uniform(movers, worlds, AGENT_HALF_WIDTH, generator)
        landmarks = self.uniform(bodies - movers, worlds, LANDMARK_HALF_WIDTH, generator)
        return State(torch.cat((agents, landmarks), 1), torch.zeros_like(agents))

    def complete_action(self, state: State, action: Tensor) -> Tensor:
        """Actions of the predators and, from its policy, of the prey: ``[2, 4, worlds]``."""
        prey = self.prey_policy(self.observe_prey(state)).clamp(-1.0, 1.0)
        return to_worlds_last(torch.cat((action, prey.unsqueeze(1)), 1))

    def observe(self, state: State) -> Tensor:
        """Observations of the controlled agents, ``[worlds, n_agents, observation_size]``."""
        return self._views.observe(state.position, state.velocity)

    def observe_prey(self, state: State) -> Tensor:
        """Observation of the prey, ``[worlds, prey_observation_size]``."""
        return self._prey_view.observe(state.position, state.velocity).squeeze(1)

    def distances_to_prey(self, state: State) -> Tensor:
        """Distance of each predator to the prey, ``[3, worlds]``."""
        movers = state.position[:, : PREDATORS + 1]
        return distances(movers[:, :PREDATORS], movers[:, PREDATORS:]).squeeze(1)

    def rewards(self, state: State) -> Tensor:
        """Rewards of the controlled agents, ``[worlds, n_agents]``."""
        distance = self.distances_to_prey(state)
        touches = (distance < self.reach).sum(0)
        shared = self.touch_reward * touches - DISTANCE_WEIGHT * distance.sum(0)
        return shared.unsqueeze(-1).repeat(1, PREDATORS)

    def prey_rewards(self, state: State) -> Tensor:
        r"""Reward that the prey is trained on, ``[worlds]``.

        It is :math:`\sum_i (0.1 \, d_i - c \, [d_i < s_i + s_{prey}])` minus the penalty of
        :func:`screen_penalty` for each axis.
        """
        distance = self.distances_to_prey(state)
        touches = (distance < self.reach).sum(0)
        escape = DISTANCE_WEIGHT * distance.sum(0) - self.touch_reward * touches
        return escape - self.screen_weight * screen_penalty(state.position[:, PREDATORS]).sum(0)


class PredatorPrey(Pursuit):
    """MPE's ``simple_tag``: two obstacles, +10 for every predator that touches the prey.

    An observation has 16 entries: own velocity 2, own position 2, landmarks relative 4, the two
    other predators and the prey relative 6, the prey's velocity 2.

    Args:
        prey_policy: the prey, see :class:`Pursuit`.
        dtype: floating point type.
        device: device of all tensors.

    Example:
        >>> scenario = PredatorPrey(prey_policy=lambda observation: observation[:, :2] * 0)
        >>> state, observation, reward = scenario.step(scenario.reset(2), torch.zeros(2, 3, 2))
        >>> tuple(observation.shape), tuple(reward.shape)
        ((2, 3, 16), (2, 3))
    """

    name = "predator_prey"

    def __init__(
        self,
        prey_policy: str | Path | Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            landmark_sizes=(OBSTACLE_SIZE,) * 2,
            landmark_kinds=("obstacle",) * 2,
            prey_size=0.05,
            touch_reward=10.0,
            prey_policy=prey_policy,
            dtype=dtype,
            device=device,
        )


def screen_penalty(coordinate: Tensor) -> Tensor:
    """Penalty for a coordinate near or beyond the screen's border at 1, elementwise.

    With x its absolute value: 0 below 0.9, 10 (x - 0.9) below 1, else min(exp(2 x - 2), 10).

    Example:
        >>> screen_penalty(torch.tensor([0.5, 0.95, -1.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """
    x = coordinate.abs()
    outside = (2.0 * x - 2.0).exp().clamp_max(10.0)
    return torch.where(x < 1.0, 10.0 * (x - 0.9).clamp_min(0.0), outside)
