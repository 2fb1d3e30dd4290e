"""Rewards without the constant that all values have in common."""

from __future__ import annotations

import torch
from torch import Tensor


def centred_rewards(reward: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    r"""Take the constant out of rewards that would make all values large and alike.

    .. math::
        r' = r + \gamma\, (1 - terminated)\, c - c, \qquad
        c = \frac{E[r]}{1 - \gamma\, (1 - E[terminated])}

    This is shaping by a potential that is the same everywhere (Ng et al., "Policy invariance under
    reward transformations", 1999): every policy's value is c lower in all states, so policies
    compare as before, whether episodes are cut or end. With this c the new rewards are 0 on
    average; where no episode terminates they are :math:`r - E[r]` (reward centring, Naik et al.,
    arXiv 2405.09999).

    Args:
        reward (Tensor): every agent's, ``[T, n, 1]``; c is of their mean over the agents.
        terminated (Tensor): bool ``[T, 1]``, whether the task ended, which a time limit is not.
        gamma (float): discount of the values, in [0, 1]; 1 only where some episode terminates.

    Returns:
        Tensor: the new rewards, ``[T, n, 1]``, of the same dtype.

    Raises:
        ValueError: if values have no bound: gamma outside [0, 1], or 1 and nothing terminates.

    Examples:
        >>> reward = torch.tensor([11.0, 9.0, 11.0, 9.0]).reshape(4, 1, 1)
        >>> never = torch.zeros(4, 1, dtype=torch.bool)
        >>> centred_rewards(reward, never, gamma=0.9).flatten().tolist()
        [1.0, -1.0, 1.0, -1.0]
        >>> centred_rewards(reward, ~never, gamma=0.9).flatten().tolist()
        [1.0, -1.0, 1.0, -1.0]
    """
    ends = terminated.double().mean().item()
    left = 1 - gamma * (1 - ends)
    if not 0 <= gamma <= 1 or left <= 0:
        raise ValueError(
            "expected a gamma in [0, 1), or 1 and episodes that terminate, to centre rewards "
            f"with, found gamma = {gamma} and a share of {ends:.3g} that terminates"
        )
    constant = reward.mean(dtype=torch.float64).item() / left
    taken = constant * (1 - gamma * (~terminated).double())
    return (reward.double() - taken.unsqueeze(-1)).to(reward.dtype)
