"""Evaluation of a policy over whole episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type


@torch.no_grad()
def rollout_episodes(
    env: EnvBase, policy: Callable, episodes: int, max_steps: int
) -> list[TensorDictBase]:
    """Play whole episodes without exploration.

    Args:
        env (EnvBase): a batched or single environment.
        policy (callable): reads and writes a TensorDict.
        episodes (int): number of episodes, at least 1.
        max_steps (int): steps after which an episode is cut.

    Returns:
        list of TensorDict: one per episode, ``[T_e]``, cut at its first end.
    """
    batched = len(env.batch_size) > 0
    rollouts: list[TensorDictBase] = []
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while len(rollouts) < episodes:
            played = env.rollout(
                max_steps=max_steps,
                policy=policy,
                auto_cast_to_device=True,
                break_when_any_done=not batched,
            )
            rollouts += played.flatten(0, -2).unbind(0) if batched else [played]
    return [cut_at_end(rollout) for rollout in rollouts[:episodes]]


def cut_at_end(rollout: TensorDictBase) -> TensorDictBase:
    """Return an episode ``[T]`` up to and with its first done step."""
    done = rollout.get(("next", "done")).reshape(rollout.shape[0], -1).any(-1)
    return rollout[: int(done.int().argmax()) + 1] if bool(done.any()) else rollout


def episode_returns(rollouts: Iterable[TensorDictBase], groups: Iterable[str]) -> Tensor:
    """Return of each episode: the reward's mean over a group's agents, summed over time.

    The mean over groups is taken where there are several, as BenchMARL's evaluation does.

    Args:
        rollouts (iterable of TensorDict): episodes, each ``[T_e]``.
        groups (iterable of str): names of the agent groups.

    Returns:
        Tensor: ``[episodes]``.
    """
    groups = list(groups)

    def of_group(rollout: TensorDictBase, group: str) -> Tensor:
        reward = rollout.get(("next", group, "reward"), None)
        reward = rollout.get(("next", "reward")) if reward is None else reward
        return reward.reshape(rollout.shape[0], -1).mean(-1).sum()

    return torch.stack(
        [torch.stack([of_group(rollout, g) for g in groups]).mean() for rollout in rollouts]
    )


def energy_score(logged: Tensor, first: Tensor, second: Tensor) -> Tensor:
    r"""Energy score of pairs of draws, :math:`E\|X - a\| - \tfrac12 E\|X - X'\|`.

    A proper scoring rule (Gneiting and Raftery, 2007): over models it is least for the
    distribution that the logged actions come from, given whatever they are conditioned on.

    Args:
        logged (Tensor): joint actions a, ``[B, n, d]``.
        first (Tensor): draws X for the same conditions, ``[B, n, d]``.
        second (Tensor): independent further draws X', ``[B, n, d]``.

    Returns:
        Tensor: mean over the batch, a scalar, at least 0 in expectation.

    Examples:
        >>> a = torch.zeros(2, 3, 1)
        >>> energy_score(a, a, a).item()
        0.0
    """

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).flatten(1).norm(dim=1).mean()

    return (distance(first, logged) + distance(second, logged) - distance(first, second)) / 2


def normalised(value: float, references: dict[str, float | None] | None) -> float | None:
    r"""Normalised score, :math:`100 (R - R_{random}) / (R_{expert} - R_{random})`.

    Args:
        value (float): the return R.
        references (dict, optional): with the keys ``random`` and ``expert``.

    Returns:
        float or None: ``None`` where a reference is missing or both are equal.

    Examples:
        >>> normalised(5.0, {"random": 0.0, "expert": 10.0})
        50.0
    """
    low = (references or {}).get("random")
    high = (references or {}).get("expert")
    if low is None or high is None or high == low:
        return None
    return 100 * (value - low) / (high - low)


def summarise(
    returns: Tensor, references: dict[str, float | None] | None, success: Tensor | None = None
) -> dict[str, Any]:
    """Describe a set of evaluation episodes.

    Args:
        returns (Tensor): ``[episodes]``.
        references (dict, optional): reference returns for the normalised score.
        success (Tensor, optional): bool ``[episodes]``, where the task defines success.

    Returns:
        dict: ``episodes``, ``return_mean``, ``return_se`` (standard error), ``normalised`` and
        ``success_rate`` (``None`` where undefined).

    Examples:
        >>> summarise(torch.tensor([1.0, 3.0]), None)["return_mean"]
        2.0
    """
    count = returns.numel()
    mean = returns.double().mean().item()
    deviation = returns.double().std().item() if count > 1 else 0.0
    return {
        "episodes": count,
        "return_mean": mean,
        "return_se": deviation / math.sqrt(count),
        "normalised": normalised(mean, references),
        "success_rate": None if success is None else success.double().mean().item(),
    }
