"""Weights of logged actions, for actors that clone the better ones."""

from __future__ import annotations

import torch
from torch import Tensor


def batch_softmax(exponent: Tensor, ndim: int, mask: Tensor | None = None) -> Tensor:
    r"""Softmax over a batch, times its size: weights whose mean over the batch is 1,

    .. math:: w_b = M \frac{e^{x_b}}{\sum_{b'} e^{x_{b'}}} .

    Args:
        exponent (Tensor): :math:`x`, ``[*B]`` or one per agent, ``[*B, n]``, each by itself.
        ndim (int): number of batch dimensions.
        mask (Tensor, optional): rows that take part, ``[*B]``; M is their number, and the others'
            weights are zero.

    Returns:
        Tensor: shaped as ``exponent``, without gradient.

    Examples:
        >>> batch_softmax(torch.tensor([0.0, 0.0, 1.0]), 1).mean()
        tensor(1.)
        >>> batch_softmax(torch.zeros(3), 1, torch.tensor([True, False, True]))
        tensor([1., 0., 1.])
    """
    agents = exponent.shape[ndim:]
    rows = exponent.detach().reshape(-1, *agents)
    if mask is None:
        return (rows.softmax(0) * len(rows)).reshape(exponent.shape)
    taken = mask.reshape(-1, *[1] * len(agents)).expand_as(rows)
    weight = rows.masked_fill(~taken, -torch.inf).softmax(0) * mask.sum()
    return torch.where(taken, weight, 0.0).reshape(exponent.shape)


def effective_share(weight: Tensor) -> Tensor:
    r"""Share of a batch that its weights leave, :math:`(\sum w)^2 / (M \sum w^2)`, in (0, 1].

    Args:
        weight (Tensor): weights of any shape, 0 or more.

    Examples:
        >>> effective_share(torch.ones(4)), effective_share(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        (tensor(1.), tensor(0.2500))
    """
    weight = weight.detach()
    return weight.sum() ** 2 / (weight.numel() * (weight**2).sum()).clamp_min(1e-12)


def for_agents(weight: Tensor, ndim: int) -> Tensor:
    """Return a team's weights ``[*B]`` as every agent's, ``[*B, 1]``; agents' own are left."""
    return weight.unsqueeze(-1) if weight.ndim == ndim else weight
