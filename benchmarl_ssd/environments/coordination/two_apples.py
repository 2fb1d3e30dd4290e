r"""A team that must meet at one of two apples without ever seeing one another.

n agents start on the middle line of a plane; one apple lies on the left, one on the right, each
:math:`D` away. At every step all agents are paid the same

.. math:: r_t = \mathbb 1\big[\exists j \in \{\text{left}, \text{right}\}\ \forall i:\
    \lVert x_{i,t} - y_j \rVert \le R\big],

so the return counts the steps on which the team stood together, between 0 and about 13 of 25. An
agent observes its own position, velocity and index and where the apples are, never a team mate;
agents neither collide nor interact in any other way. The logged teams went left or right by the
flip of a coin that leaves no trace in the start states.

**Why a product of marginals must fail here.** At the start each agent's marginal is half left, half
right, whatever it observes. If the n agents choose independently, all of them meet with
probability :math:`2 \cdot 2^{-n} = 2^{1-n}` (1/8 for four agents) although every logged episode
succeeded: the total variation between the logged joint choice and the product of its marginals is
:math:`1 - 2^{1-n}` (arXiv 2505.05968, Proposition 3.1). Nobody can mend a wrong choice later on,
since no observation depends on what the others did.

Every second agent faces left: it observes and acts with its x axis mirrored (``mirrored``). Without
that, a leaning common to all agents, as networks with shared weights have at a symmetric start,
would send them the same way whatever the data say, and an uncoordinated method would look good by
accident of its architecture.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np
import torch

from benchmarl_ssd.environments.common import require, require_int, require_number
from benchmarl_ssd.environments.coordination.drawing import draw_apples
from benchmarl_ssd.environments.coordination.two_apples_scenario import (
    SLOT_REACH,
    TwoApplesScenario,
    reachable,
)
from benchmarl_ssd.environments.vmas_env import TimeLimitedVmasEnv


@dataclass
class TaskConfig:
    """Options of ``coordination/two_apples``; see ``conf/task/coordination/two_apples.yaml``."""

    max_steps: int = MISSING
    n_agents: int = MISSING
    noise: float = MISSING
    start_jitter: float = MISSING
    apple_distance: float = MISSING
    apple_radius: float = MISSING
    mirrored: bool = MISSING

    def __post_init__(self) -> None:
        require_int("max_steps", self.max_steps, minimum=1)
        require_int("n_agents", self.n_agents, minimum=2)
        require_number("noise", self.noise, low=0.0)
        require_number("start_jitter", self.start_jitter, low=0.0)
        require_number("apple_distance", self.apple_distance, low=0.0, strict=True)
        require_number("apple_radius", self.apple_radius, low=0.0, strict=True)
        require(
            isinstance(self.mirrored, bool),
            expected="mirrored to be true or false",
            found=self.mirrored,
            mend="Set task.mirrored=true.",
        )
        # Else an agent could stand at an apple, or at both, before it has chosen.
        require(
            self.apple_radius + self.start_jitter < self.apple_distance,
            expected=f"apple_radius + start_jitter < apple_distance ({self.apple_distance:g})",
            found=self.apple_radius + self.start_jitter,
            mend="Lower task.apple_radius or task.start_jitter, or raise task.apple_distance.",
        )
        way = float(np.hypot(self.apple_distance, SLOT_REACH)) + self.start_jitter
        require(
            reachable(self.max_steps) > way,
            expected=f"max_steps that allow for the longest way to an apple ({way:.2f})",
            found=self.max_steps,
            mend="Raise task.max_steps or lower task.apple_distance.",
        )


class TwoApplesEnv(TimeLimitedVmasEnv):
    """Two apples as a TorchRL environment: truncated, never terminated, at ``max_steps``.

    Keys and shapes, B = ``num_envs``: ``("agents", "observation")`` ``[B, n, 8 + n]``,
    ``("agents", "action")`` ``[B, n, 2]`` in [-1, 1], ``("agents", "reward")`` ``[B, n, 1]`` in
    {0, 1}, ``done``, ``terminated``, ``truncated`` ``[B, 1]``.

    Args:
        num_envs: number of worlds simulated at once.
        seed: of the start jitter.
        device: where all tensors lie.
        continuous_actions: ``False`` gives VMAS's nine moves: stay, back or forth along each axis.
        **config: the options of :class:`TaskConfig`.

    Raises:
        TaskOptionError: an option is out of range.

    >>> env = TwoApplesEnv(num_envs=2, seed=0, max_steps=25, n_agents=4, noise=0.1,
    ...                    start_jitter=0.05, apple_distance=1.0, apple_radius=0.25, mirrored=True)
    >>> env.reset()["agents", "observation"].shape
    torch.Size([2, 4, 12])
    """

    def __init__(
        self,
        num_envs: int,
        seed: int | None = None,
        device: torch.device | str | int = "cpu",
        continuous_actions: bool = True,
        **config: Any,
    ):
        options = TaskConfig(**config)
        super().__init__(
            scenario=TwoApplesScenario(seed),
            num_envs=num_envs,
            seed=seed,
            device=device,
            continuous_actions=continuous_actions,
            categorical_actions=True,
            clamp_actions=True,
            max_steps=options.max_steps,
            n_agents=options.n_agents,
            start_jitter=options.start_jitter,
            apple_distance=options.apple_distance,
            apple_radius=options.apple_radius,
            mirrored=options.mirrored,
        )

    def _set_seed(self, seed: int | None) -> None:
        self._env.scenario.set_seed(seed)

    def render(self, mode: str = "rgb_array") -> np.ndarray:
        """Draw the first world with numpy, since VMAS's own viewer needs a display.

        Args:
            mode: only ``"rgb_array"``; kept for BenchMARL's call.

        Returns:
            Image ``[200, 360, 3]``, uint8.
        """
        scenario = self._env.scenario
        agents = np.stack([a.state.pos[0].cpu().numpy() for a in scenario.world.agents])
        return draw_apples(agents, scenario.distance, scenario.radius)
