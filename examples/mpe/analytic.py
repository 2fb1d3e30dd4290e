"""Training through the simulator: analytic policy gradients for the three MPE tasks.

The vectorised tasks are plain differentiable tensor code, so the return of an episode can be
differentiated with respect to a policy's parameters through all of its 25 steps: far fewer samples
than a model-free method, with the same kind of result. What is not differentiable in a reward, the
count of touches, is replaced during training by a sigmoid of the distance; evaluation always uses
the task's own reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarl_ssd.environments.mpe.cooperative_navigation import (
    AGENT_SIZE,
    COLLISION_PENALTY,
    MAX_INVERSE_DISTANCE,
    CooperativeNavigation,
)
from benchmarl_ssd.environments.mpe.predator_prey import DISTANCE_WEIGHT, Pursuit
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS, Scenario, State, distances

Policy = Callable[[Tensor], Tensor]


def smooth_reward(scenario: Scenario, state: State, temperature: float) -> Tensor:
    """Differentiable stand-in for the agents' mean reward, ``[worlds]``.

    Args:
        scenario: the task.
        state: where the reward is taken.
        temperature: width of the sigmoid that replaces a touch, in units of distance.
    """
    if isinstance(scenario, CooperativeNavigation):
        n = scenario.n_agents
        agents, landmarks = state.position[:, :n], state.position[:, n:]
        nearest = distances(agents, landmarks).amin(0)
        coverage = nearest.clamp_min(1.0 / MAX_INVERSE_DISTANCE).reciprocal().sum(0)
        first, second = torch.triu_indices(n, n, 1)
        gaps = (agents[:, first] - agents[:, second]).square().sum(0).sqrt()
        # a touching pair costs each of the two a penalty, and the return averages over agents
        touching = torch.sigmoid((2 * AGENT_SIZE - gaps) / temperature).sum(0)
        return coverage - COLLISION_PENALTY * touching * 2 / n
    if isinstance(scenario, Pursuit):
        distance = scenario.distances_to_prey(state)
        touching = torch.sigmoid((scenario.reach - distance) / temperature)
        return (scenario.touch_reward * touching - DISTANCE_WEIGHT * distance).sum(0)
    raise TypeError(f"no smooth reward for {type(scenario).__name__}")


@dataclass
class Settings:
    """How to train.

    Args:
        iterations: gradient steps; the learning rate falls along a cosine.
        worlds: episodes per gradient step.
        learning_rate: of Adam.
        noise: standard deviation of the exploration noise, from the first to the last iteration.
        temperature: of the smooth reward, from the first to the last iteration.
        max_norm: gradients are clipped to this norm.
        warmup: iterations over which the learning rate rises linearly from zero.
    """

    iterations: int = 1500
    worlds: int = 512
    learning_rate: float = 1e-3
    noise: tuple[float, float] = (0.1, 0.1)
    temperature: tuple[float, float] = (0.03, 0.03)
    max_norm: float = 1.0
    warmup: int = 20

    def noise_at(self, iteration: int) -> float:
        """Exploration noise of an iteration."""
        return _between(self.noise, iteration / max(1, self.iterations))

    def rate_at(self, iteration: int) -> float:
        """Learning rate of an iteration, relative to ``learning_rate``."""
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, iteration / self.iterations)))
        return max(0.02, cosine) * min(1.0, (iteration + 1) / max(1, self.warmup))


def _between(ends: tuple[float, float], fraction: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * min(1.0, fraction)


def smooth_return(
    scenario: Scenario, policy: Policy, worlds: int, noise: float, temperature: float
) -> Tensor:
    """Mean smooth return of one noisy episode in each world, differentiable; a scalar."""
    state = scenario.reset(worlds)
    total = torch.zeros(worlds, dtype=scenario.dtype, device=scenario.device)
    for _ in range(EPISODE_STEPS):
        action = policy(scenario.observe(state))
        action = (action + noise * torch.randn_like(action)).clamp(-1.0, 1.0)
        force = scenario.complete_action(state, action)
        state = State(*scenario.physics.step(state.position, state.velocity, force))
        total = total + smooth_reward(scenario, state, temperature)
    return total.mean()


@torch.inference_mode()
def evaluate(
    scenario: Scenario, policy: Policy, episodes: int = 1024, seed: int = 0, noise: float = 0.0
) -> tuple[float, float]:
    """Mean return over episodes and its standard error, with the task's own reward."""
    generator = torch.Generator().manual_seed(seed)
    state = scenario.reset(episodes, generator)
    observation = scenario.observe(state)
    total = torch.zeros(episodes, dtype=scenario.dtype, device=scenario.device)
    for _ in range(EPISODE_STEPS):
        action = policy(observation)
        if noise:
            draw = torch.randn(action.shape, generator=generator, dtype=action.dtype).to(action)
            action = (action + noise * draw).clamp(-1.0, 1.0)
        state, observation, reward = scenario.step(state, action)
        total += reward.mean(1)
    return total.mean().item(), (total.std() / episodes**0.5).item()


def train(
    policy: nn.Module, scenarios: Sequence[Scenario], settings: Settings
) -> Iterator[tuple[int, float]]:
    """Train a policy in place; yields (iteration, smooth return) before each gradient step.

    Args:
        policy: from observations ``[worlds, n, size]`` to actions ``[worlds, n, 2]``.
        scenarios: taken in turn, one per iteration: the same task with different preys.
        settings: how to train.
    """
    optimizer = torch.optim.Adam(policy.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate_at)
    for iteration in range(settings.iterations):
        scenario = scenarios[iteration % len(scenarios)]
        temperature = _between(settings.temperature, iteration / settings.iterations)
        objective = smooth_return(
            scenario, policy, settings.worlds, settings.noise_at(iteration), temperature
        )
        yield iteration, objective.item()
        optimizer.zero_grad()
        (-objective / EPISODE_STEPS).backward()
        norm = nn.utils.clip_grad_norm_(policy.parameters(), settings.max_norm)
        # contacts are stiff: a rare episode's gradient overflows and must not reach the policy
        if torch.isfinite(norm):
            optimizer.step()
        schedule.step()
