"""How good what followed a transition was, among what followed others."""

from __future__ import annotations

import torch
from torch import Tensor

# Returns that agree to so many digits of their deviation are equal.
_DIGITS = 5


def return_ranks(reward: Tensor, episode: Tensor) -> Tensor:
    r"""Rank the return to go of each transition among those at the same step of their episodes.

    With :math:`G_t = \sum_{u \ge t} r_u`, summed to the end of the episode, the rank is the share
    of the transitions at step t whose return to go is lower, those that are equal counting half.
    It is 0.5 on average at every step, so one number asks for the best of the data at all of them,
    without telling the step.

    Args:
        reward (Tensor): the team's reward, ``[T]``, in time order.
        episode (Tensor): the episode of each transition, ``[T]``.

    Returns:
        Tensor: in (0, 1), float32 ``[T]``.

    Examples:
        >>> reward, episode = torch.tensor([1.0, 1.0, 0.0, 3.0]), torch.tensor([0, 0, 1, 1])
        >>> return_ranks(reward, episode).tolist()  # returns to go of 2, 1 and 3, 3
        [0.25, 0.25, 0.75, 0.75]
    """
    _, which, lengths = torch.unique_consecutive(
        episode.flatten(), return_inverse=True, return_counts=True
    )
    first = lengths.cumsum(0) - lengths
    step = torch.arange(len(which)) - first[which]
    # Sums within episodes: the sum so far of the whole dataset, less that before the transition.
    reward = reward.double().flatten()
    so_far = (reward - reward.mean()).cumsum(0)
    last = first + lengths - 1
    left = lengths[which] - step
    to_go = so_far[last[which]] - so_far + reward + (left - 1) * reward.mean()
    spread = to_go.std(correction=0)
    if spread > 0:
        to_go = (to_go / spread * 10**_DIGITS).round()
    order = to_go.argsort(stable=True)
    order = order[step[order].argsort(stable=True)]  # by step, and by return within
    key = torch.stack([step[order].double(), to_go[order]], -1)
    changes = (key[1:] != key[:-1]).any(-1)
    equal = torch.cat([torch.zeros(1, dtype=torch.long), changes.long().cumsum(0)])
    same = equal.bincount()
    lower = same.cumsum(0) - same  # transitions before, of this step and earlier ones
    steps = step.bincount()
    before = steps.cumsum(0) - steps
    rank = (lower[equal] - before[step[order]] + 0.5 * same[equal]) / steps[step[order]]
    return torch.empty(len(step)).scatter_(0, order, rank.float())
