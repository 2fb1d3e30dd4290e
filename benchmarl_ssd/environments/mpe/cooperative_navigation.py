"""Cooperative Navigation: n agents cover n landmarks without colliding."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

import torch
from torch import Tensor

from benchmarl_ssd.environments.common import require, require_int
from benchmarl_ssd.environments.mpe.physics import Bodies
from benchmarl_ssd.environments.mpe.scenario import Scenario, State, distances
from benchmarl_ssd.environments.mpe.views import NOTHING, Views, standard_view

__all__ = ["CooperativeNavigation", "TaskConfig"]

AGENT_SIZE = 0.15
LANDMARK_SIZE = 0.05  # only drawn: landmarks of this task do not collide
MAX_INVERSE_DISTANCE = 10.0
COLLISION_PENALTY = 5.0
MIN_AGENTS, MAX_AGENTS = 3, 10


@dataclass
class TaskConfig:
    """Options of the task; see ``conf/task/mpe/cooperative_navigation.yaml``."""

    max_steps: int = MISSING
    n_agents: int = MISSING

    def __post_init__(self) -> None:
        require_int("max_steps", self.max_steps, minimum=1)
        require_int("n_agents", self.n_agents, minimum=MIN_AGENTS)


class CooperativeNavigation(Scenario):
    r"""MPE's ``simple_spread`` with the reward of the offline literature.

    With :math:`d_l` the distance of landmark *l* to its nearest agent, agent *i* gets

    .. math::
        r_i = \sum_l \min(1 / d_l, 10) - 5 \, |\{j \ne i : \lVert x_i - x_j \rVert < 0.3\}|

    An observation has ``6 n`` entries: own velocity 2, own position 2, landmarks relative to
    the agent 2 n, other agents relative 2 (n - 1), the others' messages 2 (n - 1), always zero.
    Positions start uniform in [-1, 1]^2 for three agents and in [-2, 2]^2 for more.

    Args:
        n_agents: number of agents and of landmarks, 3 to 10.
        dtype: floating point type.
        device: device of all tensors.

    Raises:
        TaskOptionError: if ``n_agents`` is not within 3..10.

    Example:
        >>> scenario = CooperativeNavigation(n_agents=4)
        >>> tuple(scenario.observe(scenario.reset(2)).shape)
        (2, 4, 24)
    """

    name = "cooperative_navigation"

    def __init__(
        self,
        n_agents: int = 3,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require(
            MIN_AGENTS <= n_agents <= MAX_AGENTS,
            expected=f"n_agents from {MIN_AGENTS} to {MAX_AGENTS}",
            found=n_agents,
            mend="Set task.n_agents within these bounds.",
        )
        super().__init__(
            Bodies(
                size=(AGENT_SIZE,) * n_agents + (LANDMARK_SIZE,) * n_agents,
                collides=(True,) * n_agents + (False,) * n_agents,
                acceleration=(None,) * n_agents,
                max_speed=(None,) * n_agents,
            ),
            dtype,
            device,
        )
        self.n_agents = n_agents
        self.observation_size = 6 * n_agents
        self.kinds = ("agent",) * n_agents + ("landmark",) * n_agents
        self.half_width = 1.0 if n_agents == 3 else 2.0
        silence = [NOTHING] * (n_agents - 1)
        views = [standard_view(i, n_agents, 2 * n_agents) + silence for i in range(n_agents)]
        self._views = Views(n_agents, 2 * n_agents, views, self.device)

    def reset(self, worlds: int, generator: torch.Generator | None = None) -> State:
        """Draw ``worlds`` initial states: positions uniform, velocities zero."""
        position = self.uniform(2 * self.n_agents, worlds, self.half_width, generator)
        return State(position, torch.zeros_like(position[:, : self.n_agents]))

    def observe(self, state: State) -> Tensor:
        """Observations of the controlled agents, ``[worlds, n_agents, observation_size]``."""
        return self._views.observe(state.position, state.velocity)

    def rewards(self, state: State) -> Tensor:
        """Rewards of the controlled agents, ``[worlds, n_agents]``."""
        agents, landmarks = state.position[:, : self.n_agents], state.position[:, self.n_agents :]
        nearest = distances(agents, landmarks).amin(0)
        coverage = nearest.reciprocal().clamp_max(MAX_INVERSE_DISTANCE).sum(0)
        # minus one: every agent is at distance zero of itself
        touching = (distances(agents, agents) < 2 * AGENT_SIZE).sum(1) - 1
        return (coverage - COLLISION_PENALTY * touching).t()
