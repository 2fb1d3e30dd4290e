r"""A one-step game in which the team is paid only for a joint action that somebody has played.

There are K joint modes. In mode k agent i plays the level :math:`m_{k,i} = \ell_{p_i(k)}`, with
K levels evenly spaced over [-0.8, 0.8] and one permutation :math:`p_i` per agent, so that every
agent has K distinct actions and no joint mode is special. The logged team draws a mode uniformly,

.. math:: \mu(a) = \frac1K \sum_k \prod_i \mathcal N(a_i;\, m_{k,i},\, \text{noise}^2).

**Why a product of marginals must fail here.** Each agent's marginal puts 1/K on each of its
levels. The product of the n marginals therefore puts :math:`K^{-n}` on each of the :math:`K^n`
combinations, while :math:`\mu` puts 1/K on just K of them. With well separated levels

.. math::
    \mathrm{TV}\Big(\mu, \prod_i \mu_i\Big)
      = \tfrac12\Big[K\big(\tfrac1K - K^{-n}\big) + (K^n - K)\,K^{-n}\Big] = 1 - K^{1-n},

and a team that draws from its marginals is paid with probability :math:`K^{1-n}` only. The
observation is constant and the same in every mode, so no reading of the state helps either. What
the agents' actions share, their total correlation, is (n - 1) log K.

The equation is the paper's Proposition 3.1 and Corollary 3.2 (arXiv 2505.05968).
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from benchmarl_ssd.environments.common import require, require_int, require_number
from benchmarl_ssd.environments.coordination.drawing import AGENT_COLOURS, GREY, Canvas

HIGHEST_LEVEL = 0.8
"""Outermost action level: inside [-1, 1], so that noise around it is seldom clamped."""


@dataclass
class TaskConfig:
    """Options of ``coordination/bandit``; see ``conf/task/coordination/bandit.yaml``."""

    max_steps: int = MISSING
    n_agents: int = MISSING
    n_modes: int = MISSING
    noise: float = MISSING
    tolerance: float = MISSING
    mode_seed: int = MISSING

    def __post_init__(self) -> None:
        require_int("n_agents", self.n_agents, minimum=2)
        require_int("n_modes", self.n_modes, minimum=2)
        require_int("mode_seed", self.mode_seed, minimum=0)
        require_number("noise", self.noise, low=0.0)
        require_number("tolerance", self.tolerance, low=0.0, strict=True)
        require(
            self.max_steps == 1,
            expected="max_steps=1 (every episode of the bandit is one step)",
            found=self.max_steps,
            mend="Leave task.max_steps at 1.",
        )
        # From half a spacing on, one action would belong to two modes at once.
        limit = HIGHEST_LEVEL / (self.n_modes - 1)
        require(
            self.tolerance < limit,
            expected=f"tolerance < {limit:.4g}, half the spacing of {self.n_modes} levels",
            found=self.tolerance,
            mend="Lower task.tolerance or task.n_modes.",
        )


def joint_modes(n_agents: int, n_modes: int, mode_seed: int = 0) -> Tensor:
    r"""Return the played joint actions :math:`m_{k,i} = \ell_{p_i(k)}`.

    Args:
        n_agents: number of agents n.
        n_modes: number of joint modes K.
        mode_seed: seed of the agents' permutations; independent of torch's global generator.

    Returns:
        Float tensor ``[K, n]`` in [-0.8, 0.8]; each column holds K distinct levels.

    >>> joint_modes(2, 2, mode_seed=0).abs().unique()
    tensor([0.8000])
    """
    generator = torch.Generator().manual_seed(mode_seed)
    levels = torch.linspace(-HIGHEST_LEVEL, HIGHEST_LEVEL, n_modes)
    columns = [levels[torch.randperm(n_modes, generator=generator)] for _ in range(n_agents)]
    return torch.stack(columns, dim=-1)


class BanditEnv(EnvBase):
    r"""The bandit as a vectorised TorchRL environment.

    Every agent gets the same reward

    .. math:: r(a) = \mathbb 1\big[\exists k\ \forall i:\ |a_i - m_{k,i}| \le \text{tolerance}\big].

    Observation: one-hot agent index, ``("agents", "observation")`` ``[B, n, n]``, the same in every
    episode. Action: ``("agents", "action")`` ``[B, n, 1]`` in [-1, 1]. Reward: ``("agents",
    "reward")`` ``[B, n, 1]`` in {0, 1}. ``done`` and ``terminated`` ``[B, 1]`` are true after the
    only step, ``truncated`` never: a bandit has no future to bootstrap from.

    Args:
        num_envs: number of games B played at once.
        seed: accepted for the interface's sake; the game itself has no randomness.
        device: where all tensors lie.
        **config: the options of :class:`TaskConfig`; ``noise`` and ``max_steps`` may be left out.

    Raises:
        TaskOptionError: an option is out of range.

    >>> env = BanditEnv(num_envs=3, n_agents=2, n_modes=2, tolerance=0.25, mode_seed=0)
    >>> td = env.reset().set(("agents", "action"), env.modes[0].expand(3, 2).unsqueeze(-1))
    >>> env.step(td)["next", "agents", "reward"].squeeze(-1)[0]
    tensor([1., 1.])
    """

    def __init__(
        self,
        num_envs: int,
        seed: int | None = None,
        device: torch.device | str | int = "cpu",
        **config: Any,
    ):
        self.config = TaskConfig(**{"noise": 0.0, "max_steps": 1, **config})
        super().__init__(device=torch.device(device), batch_size=torch.Size([num_envs]))
        self.n_agents = self.config.n_agents
        self.agent_names = [f"agent_{i}" for i in range(self.n_agents)]
        self.group_map = {"agents": self.agent_names}
        self.modes = joint_modes(self.n_agents, self.config.n_modes, self.config.mode_seed).to(
            self.device
        )
        self._last_action: Tensor | None = None
        self._make_specs()
        self.set_seed(seed if seed is not None else 0)

    def _make_specs(self) -> None:
        n = self.n_agents

        def grouped(name: str, spec: Any) -> Composite:
            return Composite({"agents": Composite({name: spec}, shape=(n,))}).to(self.device)

        self.full_observation_spec_unbatched = grouped(
            "observation", Bounded(low=0.0, high=1.0, shape=(n, n), dtype=torch.float32)
        )
        self.full_action_spec_unbatched = grouped(
            "action", Bounded(low=-1.0, high=1.0, shape=(n, 1), dtype=torch.float32)
        )
        self.full_reward_spec_unbatched = grouped("reward", Unbounded(shape=(n, 1)))
        flag = Categorical(n=2, shape=(1,), dtype=torch.bool)
        self.full_done_spec_unbatched = Composite(
            {name: flag.clone() for name in ("done", "terminated", "truncated")}
        ).to(self.device)

    def _state(self, *, over: bool, **agents: Tensor) -> TensorDict:
        observation = torch.eye(self.n_agents, device=self.device)
        observation = observation.expand(*self.batch_size, -1, -1).clone()
        flag = torch.full((*self.batch_size, 1), over, device=self.device)
        group = TensorDict(
            {"observation": observation, **agents},
            batch_size=(*self.batch_size, self.n_agents),
            device=self.device,
        )
        return TensorDict(
            {
                "agents": group,
                "done": flag,
                "terminated": flag.clone(),
                "truncated": torch.zeros_like(flag),
            },
            batch_size=self.batch_size,
            device=self.device,
        )

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        return self._state(over=False)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict.get(("agents", "action"))
        self._last_action = action.detach()
        paid = self.played_mode(action).ge(0).to(torch.float32)
        reward = paid[:, None, None].expand(-1, self.n_agents, 1).clone()
        return self._state(over=True, reward=reward)

    def played_mode(self, action: Tensor) -> Tensor:
        """Return which joint mode each joint action belongs to.

        Args:
            action: joint actions ``[..., n, 1]``.

        Returns:
            Integer tensor ``[...]``: the mode's index 0..K-1, or -1 for an unplayed combination.
        """
        near = (
            action.squeeze(-1).unsqueeze(-2) - self.modes.to(action.device)
        ).abs() <= self.config.tolerance
        inside = near.all(-1)
        return torch.where(inside.any(-1), inside.int().argmax(-1), -1)

    def _set_seed(self, seed: int | None) -> None:
        # Nothing in the game is random; the modes depend on mode_seed alone.
        pass

    def render(self, mode: str = "rgb_array") -> np.ndarray:
        """Draw the first game: a row per agent, its K levels, and the action it played.

        Args:
            mode: only ``"rgb_array"``; kept for BenchMARL's call.

        Returns:
            Image ``[H, 320, 3]``, uint8, H even and growing with the number of agents.
        """
        width, row = 320, 40
        height = row * self.n_agents + 20
        unit = 2.3 / width  # world length of a pixel, on both axes
        canvas = Canvas(width, height, x_range=(-1.15, 1.15), y_range=(0.0, height * unit))
        modes = self.modes.cpu().numpy()
        for i in range(self.n_agents):
            y = (height - 30 - row * i) * unit
            canvas.segment((-1.0, y), (1.0, y), radius=0.008, colour=GREY)
            for k in range(self.config.n_modes):
                colour = AGENT_COLOURS[k % len(AGENT_COLOURS)]
                canvas.ring((modes[k, i], y), radius=0.09, width=0.025, colour=colour)
            if self._last_action is not None:
                x = float(self._last_action[0, i, 0].clamp(-1, 1))
                canvas.disc((x, y), radius=0.055, colour=(20, 20, 20))
        return canvas.image()
