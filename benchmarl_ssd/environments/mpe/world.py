"""World: Predator-Prey with food for the prey and forests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarl_ssd.environments.common import require_int
from benchmarl_ssd.environments.mpe.predator_prey import OBSTACLE_SIZE, PREDATORS, Pursuit
from benchmarl_ssd.environments.mpe.scenario import State, distances

__all__ = ["TaskConfig", "World"]

FOOD_SIZE, FOREST_SIZE = 0.03, 0.3
FOOD_REWARD, FOOD_DISTANCE_WEIGHT = 2.0, 0.05
#: where the landmarks lie among the bodies: obstacle, food, food, forest, forest
FIRST_FOOD = PREDATORS + 2
FIRST_FOREST = FIRST_FOOD + 2


@dataclass
class TaskConfig:
    """Options of ``mpe/world``; see ``conf/task/mpe/world.yaml``."""

    max_steps: int = MISSING
    prey_policy: str | None = MISSING

    def __post_init__(self) -> None:
        require_int("max_steps", self.max_steps, minimum=1)


class World(Pursuit):
    """MPE's ``simple_world``: one obstacle, two food, two forests, +5 for every touch of the prey.

    Food and forests do not collide. In this version nobody is hidden by a forest. An observation
    has 24 entries: own velocity 2, own position 2, the obstacle, food and forests relative 10, the
    two other predators and the prey relative 6, the prey's velocity 2, and a flag for each forest,
    +1 where the agent is in it and -1 elsewhere.

    Args:
        prey_policy: the prey, see :class:`~benchmarl_ssd.environments.mpe.predator_prey.Pursuit`.
        dtype: floating point type.
        device: device of all tensors.

    Example:
        >>> scenario = World(prey_policy=lambda observation: observation[:, :2] * 0)
        >>> state, observation, reward = scenario.step(scenario.reset(2), torch.zeros(2, 3, 2))
        >>> tuple(observation.shape), tuple(reward.shape)
        ((2, 3, 24), (2, 3))
    """

    name = "world"
    flags = 2
    screen_weight = 2.0

    def __init__(
        self,
        prey_policy: str | Path | Callable[[Tensor], Tensor] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(
            landmark_sizes=(OBSTACLE_SIZE, FOOD_SIZE, FOOD_SIZE, FOREST_SIZE, FOREST_SIZE),
            landmark_kinds=("obstacle", "food", "food", "forest", "forest"),
            prey_size=0.045,
            touch_reward=5.0,
            prey_policy=prey_policy,
            dtype=dtype,
            device=device,
        )
        sizes = torch.tensor(self.bodies.size, dtype=dtype, device=self.device)
        self._forest_reach = sizes[: PREDATORS + 1, None, None] + FOREST_SIZE

    def forest_flags(self, state: State) -> Tensor:
        """+1 where a movable body is in a forest, else -1: ``[movers, 2, worlds]``."""
        bodies, forests = state.position[:, : PREDATORS + 1], state.position[:, FIRST_FOREST:]
        inside = distances(bodies, forests) < self._forest_reach
        return inside.to(self.dtype) * 2.0 - 1.0

    def observe(self, state: State) -> Tensor:
        """Observations of the controlled agents, ``[worlds, n_agents, observation_size]``."""
        flags = self.forest_flags(state)[:PREDATORS].permute(2, 0, 1)
        return torch.cat((super().observe(state), flags), -1)

    def observe_prey(self, state: State) -> Tensor:
        """Observation of the prey, ``[worlds, prey_observation_size]``."""
        flags = self.forest_flags(state)[PREDATORS]
        return torch.cat((super().observe_prey(state), flags.t()), -1)

    def prey_rewards(self, state: State) -> Tensor:
        """As in Predator-Prey, +2 for each food touched, +0.05 times the nearest one's distance."""
        prey = state.position[:, PREDATORS : PREDATORS + 1]
        distance = distances(prey, state.position[:, FIRST_FOOD:FIRST_FOREST]).squeeze(0)
        eaten = (distance < self.bodies.size[PREDATORS] + FOOD_SIZE).sum(0)
        food = FOOD_REWARD * eaten + FOOD_DISTANCE_WEIGHT * distance.amin(0)
        return super().prey_rewards(state) + food
