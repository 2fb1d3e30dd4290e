"""A scripted controller for Cooperative Navigation, and its imitation by a network.

Who goes where is a discrete choice that gradients through the simulator find slowly. The script
makes it by comparing all assignments; a network imitates it and is then improved by its gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import torch
from torch import Tensor, nn

from benchmarl_ssd.environments.mpe.cooperative_navigation import CooperativeNavigation
from benchmarl_ssd.environments.mpe.physics import DAMPING, SENSITIVITY, TIME_STEP
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS

#: fraction of the way to its landmark that an agent tries to go in one step
APPROACH = 0.6


def scripted_action(observation: Tensor) -> Tensor:
    """Send every agent to its landmark under the assignment of least total squared distance.

    Args:
        observation: ``[worlds, n, 6 n]`` of Cooperative Navigation.

    Returns:
        Actions ``[worlds, n, 2]``: those that reach ``APPROACH`` of the way within one step, by
        v' = (1 - 0.25) v + 5 * 0.1 u and x' = x + 0.1 v', as far as the box allows.
    """
    n = observation.shape[-2]
    velocity = observation[..., :2]
    landmarks = observation[..., 4 : 4 + 2 * n].unflatten(-1, (n, 2))
    cost = landmarks.square().sum(-1)
    orders = torch.tensor(list(permutations(range(n))))
    total = torch.stack([cost[:, i, orders[:, i]] for i in range(n)]).sum(0)
    chosen = orders[total.argmin(1)]
    target = landmarks.gather(2, chosen[..., None, None].expand(-1, -1, 1, 2)).squeeze(2)
    wanted = APPROACH * target / TIME_STEP
    return ((wanted - (1 - DAMPING) * velocity) / (SENSITIVITY * TIME_STEP)).clamp(-1.0, 1.0)


def imitate(
    policy: nn.Module,
    scenario: CooperativeNavigation,
    iterations: int,
    worlds: int = 256,
    learning_rate: float = 2e-3,
    noise: float = 0.1,
    capacity: int = 400_000,
) -> Iterator[tuple[int, float]]:
    """DAgger: the learner plays, the script says what it should have done; yields (i, loss)."""
    optimizer = torch.optim.Adam(policy.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    size = scenario.observation_size
    seen = torch.empty(capacity, scenario.n_agents, size)
    wanted = torch.empty(capacity, scenario.n_agents, 2)
    stored, updates_per_episode = 0, 25
    state = scenario.reset(worlds)
    for iteration in range(iterations):
        if iteration % updates_per_episode == 0:
            state = scenario.reset(worlds)
            mixture = max(0.0, 1.0 - iteration / (0.2 * iterations))
            for _ in range(EPISODE_STEPS):
                observation = scenario.observe(state)
                target = scripted_action(observation)
                rows = (stored + torch.arange(worlds)) % capacity
                seen[rows], wanted[rows] = observation, target
                stored += worlds
                with torch.no_grad():
                    action = policy(observation)
                lead = torch.rand(worlds, 1, 1) < mixture
                action = torch.where(lead, target, action)
                state, _, _ = scenario.step(state, action + noise * torch.randn_like(action))
        batch = torch.randint(min(stored, capacity), (1024,))
        loss = (policy(seen[batch]) - wanted[batch]).square().mean()
        yield iteration, loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
