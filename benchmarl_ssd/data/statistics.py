"""Returns and lengths of episodes, gathered while transitions stream by."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import torch

# The lowest share of the rewards, and how far its mean is below a Gaussian's in deviations.
_RARE, _GAUSSIAN_SHORTFALL = 0.01, 2.665

NO_SPREAD = 1e-6
"""Deviation, in units of the largest of them, up to which rewards count as all the same."""


def team_reward(rewards: Sequence[torch.Tensor]) -> torch.Tensor:
    """Average rewards over each group's agents, then over groups.

    Args:
        rewards: ``[T, n, 1]`` for each group.

    Returns:
        float64 ``[T]``.

    Example:
        >>> team_reward([torch.tensor([[[1.0], [3.0]]])])
        tensor([2.], dtype=torch.float64)
    """
    means = [reward.double().flatten(1).mean(1) for reward in rewards]
    return torch.stack(means).mean(0)


def varies(rewards: torch.Tensor) -> bool:
    """Tell whether rewards differ by more than rounding, whatever their unit.

    Args:
        rewards: the team's, ``[T]``.

    Example:
        >>> varies(torch.tensor([1e-9, 2e-9])), varies(torch.full((3,), 0.1))
        (True, False)
    """
    deviation = rewards.double().std(correction=0)
    return bool(deviation > NO_SPREAD * rewards.double().abs().max())


def downside(rewards: torch.Tensor) -> float:
    r"""How far below its mean a reward falls, measured by a Gaussian's and by how far it rises.

    .. math::
        \max\Bigl(\frac{u}{2.665\; \mathrm{std}(r)},\; \min(1, u / v)\Bigr), \qquad
        u = E[r] - E[r \mid r \le q_{0.01}],\quad v = E[r \mid r \ge q_{0.99}] - E[r]

    with expected shortfalls, the means of the lowest and the highest hundredth of the rewards
    (Rockafellar and Uryasev, "Conditional value-at-risk for general loss distributions", 2002): 1
    for Gaussian rewards and for those paid in every second step, near 0 where all there is are rare
    good ones, above 1 where there are rare bad ones. A factor on the rewards and a constant added
    to them change nothing.

    Args:
        rewards: the team's, ``[T]``.

    Returns:
        At least 0; 1 where all rewards are the same.

    Example:
        >>> rewards = torch.tensor([0.0, 0.0, 0.0, 0.0, 10.0])
        >>> round(downside(rewards), 2), round(downside(-rewards), 2)
        (0.25, 1.0)
    """
    rewards = rewards.double()
    deviation, mean = rewards.std(correction=0).item(), rewards.mean().item()
    if not varies(rewards):
        return 1.0
    few = max(1, round(_RARE * len(rewards)))
    below = mean - rewards.topk(few, largest=False).values.mean().item()
    above = rewards.topk(few).values.mean().item() - mean
    return max(below / (_GAUSSIAN_SHORTFALL * deviation), min(1.0, below / above))


def sample_rows(total: int, most: int) -> torch.Tensor:
    """Choose rows to look at: all of them, or ``most`` at random, always the same ones.

    Not every k-th: of episodes that are all as long, that sees some of their steps only, in the
    worst case nothing but the first.

    Args:
        total: rows there are.
        most: rows to choose at most.

    Returns:
        int64, in ascending order, each row at most once.

    Example:
        >>> sample_rows(3, 5)
        tensor([0, 1, 2])
        >>> len(sample_rows(100, 5).unique())
        5
    """
    if total <= most:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(total, generator=generator)[:most].sort().values


class EpisodeStatistics:
    """Gathers the return and the length of every episode.

    Example:
        >>> statistics = EpisodeStatistics()
        >>> statistics.add(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([False, True, True]))
        >>> statistics.summary()[0]["mean"], statistics.summary()[1]["max"]
        (4.0, 2)
    """

    def __init__(self) -> None:
        # Not a list of tensors: small ones that stay, among large ones that go, would keep the
        # memory of these from being given back, and a long recording's would grow.
        self._returns = array("d")
        self._lengths = array("q")

    def add(self, rewards: torch.Tensor, done: torch.Tensor) -> None:
        """Take whole episodes.

        Args:
            rewards: the team's reward, ``[t]``.
            done: bool ``[t]``, True at each episode's last transition; the last one is True.
        """
        ends = done.nonzero().flatten()
        episode = torch.cumsum(done.long(), 0) - done.long()
        returns = torch.zeros(len(ends), dtype=torch.float64)
        returns.index_add_(0, episode, rewards.double())
        self._returns.frombytes(returns.numpy().tobytes())
        lengths = torch.diff(ends, prepend=ends.new_tensor([-1]))
        self._lengths.frombytes(lengths.numpy().tobytes())

    @property
    def returns(self) -> torch.Tensor:
        """Return of each episode so far, float64 ``[episodes]``."""
        return torch.tensor(self._returns, dtype=torch.float64)

    @property
    def lengths(self) -> torch.Tensor:
        """Length of each episode so far in steps, int64 ``[episodes]``."""
        return torch.tensor(self._lengths, dtype=torch.int64)

    def summary(self) -> tuple[dict[str, float], dict[str, float]]:
        """Summarise the episodes so far.

        Returns:
            ``mean, std, min, max, median`` of the returns, and ``mean, min, max`` of the lengths.
        """
        return summarise(self.returns, self.lengths)


def summarise(
    returns: torch.Tensor, lengths: torch.Tensor
) -> tuple[dict[str, float], dict[str, float]]:
    """Summarise episodes as ``metadata.json`` does.

    Args:
        returns: float64 ``[episodes]``.
        lengths: int64 ``[episodes]``, in steps.

    Returns:
        ``mean, std, min, max, median`` of the returns, and ``mean, min, max`` of the lengths.

    Example:
        >>> summarise(torch.tensor([1.0, 3.0]).double(), torch.tensor([5, 7]))[1]
        {'mean': 6.0, 'min': 5, 'max': 7}
    """
    return (
        {
            "mean": returns.mean().item(),
            "std": returns.std(correction=0).item(),
            "min": returns.min().item(),
            "max": returns.max().item(),
            "median": returns.quantile(0.5).item()
            if len(returns) < 2**24
            else returns.median().item(),
        },
        {
            "mean": lengths.double().mean().item(),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
        },
    )
