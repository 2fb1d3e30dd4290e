"""The world of two apples for VMAS: bodies, rewards, and what each agent sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vmas.simulator.core import Agent, Landmark, Sphere, World
from vmas.simulator.scenario import BaseScenario
from vmas.simulator.utils import Color, ScenarioUtils

THRUST = 3.0
"""Force of a full action. With VMAS's drag (0.25) and time step (0.1) an agent covers at most
0.12 per step; the logged teams reach an apple 1.0 away after 12 or 13 of the 25 steps."""
TIME_STEP = 0.1
DRAG = 0.25
SLOT_REACH = 0.4
"""The start slots are spread evenly over [-0.4, 0.4] on the middle line."""


def reachable(steps: int) -> float:
    r"""Return how far an agent gets from rest at full thrust.

    :math:`v_{t+1} = (1 - \text{drag})\, v_t + \text{thrust}\,\Delta t`, distance
    :math:`\sum_t v_t\,\Delta t`.

    >>> round(reachable(25), 2)
    2.64
    """
    speed, distance = 0.0, 0.0
    for _ in range(steps):
        speed = (1 - DRAG) * speed + THRUST * TIME_STEP
        distance += speed * TIME_STEP
    return distance


def facing(n_agents: int, mirrored: bool) -> Tensor:
    """Return the sign by which each agent's x axis differs from the world's, ``[n]``.

    Args:
        n_agents: number of agents n.
        mirrored: whether every second agent faces the other way.

    >>> facing(3, mirrored=True)
    tensor([ 1., -1.,  1.])
    """
    sign = torch.ones(n_agents)
    if mirrored:
        sign[1::2] = -1.0
    return sign


def world_positions(observation: Tensor, mirrored: bool) -> Tensor:
    """Return where the agents are in the world, from what they observe.

    Args:
        observation: ``[..., n, 8 + n]``.
        mirrored: the task's option.

    Returns:
        Positions ``[..., n, 2]``.
    """
    sign = facing(observation.shape[-2], mirrored).to(observation)
    x, y = observation[..., 0] * sign, observation[..., 1]
    return torch.stack([x, y], dim=-1)


def start_slots(n_agents: int) -> Tensor:
    """Return the agents' start positions before jitter, ``[n, 2]``.

    >>> start_slots(2)
    tensor([[ 0.0000, -0.4000],
            [ 0.0000,  0.4000]])
    """
    y = torch.linspace(-SLOT_REACH, SLOT_REACH, n_agents)
    return torch.stack([torch.zeros(n_agents), y], dim=-1)


class TwoApplesScenario(BaseScenario):
    """Two apples as a VMAS scenario.

    Observation of agent i, ``[8 + n]``: own position (2), own velocity (2), the apple on its left
    and the one on its right relative to itself (2 + 2), one-hot index (n). Action: force ``[2]`` in
    [-1, 1]. Both are in the agent's own frame, whose x axis is the world's or its mirror image.

    Args:
        seed: of the start jitter. VMAS keeps one generator for all its worlds, so that what one
            environment draws depends on which others exist; this scenario therefore has its own.
            ``None`` seeds it from torch's global generator.
    """

    def __init__(self, seed: int | None = None):
        super().__init__()
        self.generator = torch.Generator()  # on the CPU: one seed, one start, on every device
        self.set_seed(seed)

    def set_seed(self, seed: int | None) -> None:
        """Restart the start jitter's generator."""
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        # Users give one seed to everything: without the offset, the jitter would be made of the
        # very random bits from which torch's global generator makes the team's convention.
        self.generator.manual_seed(seed + 0x5EED_0F_57A7)

    def make_world(self, batch_dim: int, device: torch.device, **kwargs: Any) -> World:
        """Build the world; ``kwargs`` are the geometry options of :class:`TaskConfig`."""
        n_agents = kwargs.pop("n_agents", 4)
        self.jitter = kwargs.pop("start_jitter", 0.05)
        self.distance = kwargs.pop("apple_distance", 1.0)
        self.radius = kwargs.pop("apple_radius", 0.25)
        self.facing = facing(n_agents, kwargs.pop("mirrored", True))
        ScenarioUtils.check_kwargs_consumed(kwargs)
        border = self.distance + 0.5  # keeps observations bounded under any policy
        world = World(
            batch_dim, device, dt=TIME_STEP, drag=DRAG, x_semidim=border, y_semidim=border
        )
        for i in range(n_agents):
            world.add_agent(
                Agent(f"agent_{i}", shape=Sphere(0.05), collide=False, u_multiplier=THRUST)
            )
        for name in ("left", "right"):
            apple = Landmark(
                f"{name} apple", shape=Sphere(self.radius), collide=False, color=Color.GREEN
            )
            world.add_landmark(apple)
        self.slots = start_slots(n_agents)
        self.identity = torch.eye(n_agents)
        return world

    def reset_world_at(self, env_index: int | None = None) -> None:
        """Put the agents into their slots with a little jitter, and the apples left and right."""
        rows = self.world.batch_dim if env_index is None else 1
        device = self.world.device
        for slot, agent in zip(self.slots, self.world.agents, strict=True):
            jitter = (2 * torch.rand(rows, 2, generator=self.generator) - 1) * self.jitter
            agent.set_pos(slot.to(device) + jitter.to(device), batch_index=env_index)
        for side, apple in zip((-1.0, 1.0), self.world.landmarks, strict=True):
            place = torch.tensor([[side * self.distance, 0.0]], device=device)
            apple.set_pos(place.expand(rows, -1), batch_index=env_index)

    def standing_at(self) -> Tensor:
        """Return which agent stands at which apple, bool ``[B, n, 2]`` (left, right)."""
        agents = torch.stack([agent.state.pos for agent in self.world.agents], dim=1)
        apples = torch.stack([apple.state.pos for apple in self.world.landmarks], dim=1)
        return (agents.unsqueeze(2) - apples.unsqueeze(1)).norm(dim=-1) <= self.radius

    def reward(self, agent: Agent) -> Tensor:
        """Return 1 where all agents stand at the same apple, else 0: ``[B]``, same for everyone."""
        if agent is self.world.agents[0]:  # VMAS asks agent by agent: compute it once a step
            self._paid = self.standing_at().all(1).any(-1).to(torch.float32)
        return self._paid

    def _frame(self, agent: Agent) -> Tensor:
        sign = self.facing[self.world.agents.index(agent)].to(agent.state.pos.device)
        return torch.stack([sign, torch.ones_like(sign)])

    def process_action(self, agent: Agent) -> None:
        """Turn the force from the agent's own frame into the world's."""
        agent.action.u = agent.action.u * self._frame(agent)

    def observation(self, agent: Agent) -> Tensor:
        """Return what ``agent`` sees, ``[B, 8 + n]``: nothing of any other agent."""
        index = self.world.agents.index(agent)
        apples = [apple.state.pos - agent.state.pos for apple in self.world.landmarks]
        if self.facing[index] < 0:  # the apple on one's own left comes first
            apples.reverse()
        own = [
            vector * self._frame(agent) for vector in (agent.state.pos, agent.state.vel, *apples)
        ]
        identity = self.identity[index].to(agent.state.pos.device)
        return torch.cat([*own, identity.expand(self.world.batch_dim, -1)], dim=-1)
