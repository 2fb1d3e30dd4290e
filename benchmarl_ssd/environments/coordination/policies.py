"""The scripted teams whose play is logged: they share a convention that no observation shows."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from benchmarl_ssd.environments.common import balanced_choice
from benchmarl_ssd.environments.coordination import bandit, two_apples, two_apples_scenario


class ConventionTeam:
    """A team that draws one convention per episode and keeps to it.

    Conventions are balanced within a batch of episodes up to one, and drawn with torch's global
    generator.

    Args:
        n_conventions: how many conventions there are.
        noise: standard deviation of the Gaussian noise added to every action, before clamping.
    """

    def __init__(self, n_conventions: int, noise: float):
        self.n_conventions = n_conventions
        self.noise = noise
        self.convention: Tensor | None = None

    def reset(self, tensordict: TensorDictBase) -> None:
        """Draw the conventions of a new batch of episodes.

        Args:
            tensordict: what the environment's ``reset`` returned, batch size ``[B]``; only its
                batch size and device are read.
        """
        observation = tensordict.get(("agents", "observation"))
        self.convention = balanced_choice(
            tensordict.batch_size[0], self.n_conventions, observation.device
        )

    def intended(self, observation: Tensor, convention: Tensor) -> Tensor:
        """Return the noise-free action ``[B, n, dim]`` under each episode's convention ``[B]``."""
        raise NotImplementedError

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``("agents", "action")``, clamped to [-1, 1].

        Raises:
            ValueError: no conventions were drawn for this batch of episodes.
        """
        convention = self.convention
        if convention is None or convention.shape[0] != tensordict.batch_size[0]:
            drawn = None if convention is None else convention.shape[0]
            raise ValueError(
                f"Expected conventions for {tensordict.batch_size[0]} episodes, found {drawn}. "
                "Call policy.reset(env.reset()) at the start of each batch of episodes."
            )
        action = self.intended(tensordict.get(("agents", "observation")), convention)
        action = action + self.noise * torch.randn_like(action)
        return tensordict.set(("agents", "action"), action.clamp(-1.0, 1.0))


class BanditTeam(ConventionTeam):
    r"""Plays joint mode k of the bandit: :math:`a_i = m_{k,i} + \text{noise}\, z_i`, clamped.

    Args:
        **config: the options of the bandit's ``TaskConfig``.

    >>> from benchmarl_ssd.environments.coordination import BanditEnv
    >>> config = dict(max_steps=1, n_agents=4, n_modes=3, noise=0.05, tolerance=0.25, mode_seed=0)
    >>> env, team = BanditEnv(num_envs=30, **config), BanditTeam(**config)
    >>> start = env.reset()
    >>> team.reset(start)
    >>> env.step(team(start))["next", "agents", "reward"].mean()
    tensor(1.)
    """

    def __init__(self, **config: Any):
        options = bandit.TaskConfig(**config)
        super().__init__(options.n_modes, options.noise)
        self.modes = bandit.joint_modes(options.n_agents, options.n_modes, options.mode_seed)

    def intended(self, observation: Tensor, convention: Tensor) -> Tensor:
        """Return the mode's actions, ``[B, n, 1]``."""
        return self.modes.to(observation.device)[convention].unsqueeze(-1)


class TwoApplesTeam(ConventionTeam):
    r"""All agents walk to the left or all to the right apple and stay there.

    A proportional-derivative controller towards the agent's own place :math:`g_i` at the apple,

    .. math:: a_i = \mathrm{cap}_{0.8}\big(4\,(g_i - x_i) - 1.2\, v_i\big) + \text{noise}\, z,

    where the cap shortens the vector to length 0.8: away from the bounds, noise stays Gaussian.

    Args:
        **config: the options of two apples' ``TaskConfig``.

    >>> config = dict(max_steps=25, n_agents=4, noise=0.1, start_jitter=0.05, apple_distance=1.0,
    ...               apple_radius=0.25, mirrored=True)
    >>> env = two_apples.TwoApplesEnv(num_envs=8, seed=0, **config)
    >>> start, team = env.reset(), TwoApplesTeam(**config)
    >>> team.reset(start)
    >>> rollout = env.rollout(25, team, auto_reset=False, tensordict=start)
    >>> rollout["next", "agents", "reward"][:, -1].mean()
    tensor(1.)
    """

    def __init__(self, **config: Any):
        options = two_apples.TaskConfig(**config)
        super().__init__(2, options.noise)
        self.facing = two_apples_scenario.facing(options.n_agents, options.mirrored)
        # Places half a radius apart, in the order of the start slots, let a picture show everyone.
        slots = two_apples_scenario.start_slots(options.n_agents)
        self.places = slots * (0.5 * options.apple_radius / two_apples_scenario.SLOT_REACH)

    def intended(self, observation: Tensor, convention: Tensor) -> Tensor:
        """Return the controllers' forces, ``[B, n, 2]``; convention 0 is left, 1 right."""
        velocity = observation[..., 2:4]
        to_apples = observation[..., 4:8].unflatten(-1, (2, 2))
        # Which apple it is in each agent's own frame: left and right swap for those who face left.
        mirrored = (self.facing < 0).to(observation.device)
        chosen = convention.bool().unsqueeze(-1) ^ mirrored
        to_apple = torch.where(chosen.unsqueeze(-1), to_apples[..., 1, :], to_apples[..., 0, :])
        to_place = to_apple + self.places.to(observation.device)
        force = 4.0 * to_place - 1.2 * velocity
        return force * (0.8 / force.norm(dim=-1, keepdim=True).clamp_min(0.8))
