"""The coordinates in which windows of a team's observations are diffused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Changes below this never happen in the data; they are not made up in plans either.
_CONSTANT = 1e-6


class PlanFrame(nn.Module):
    r"""Maps windows of observations to a current observation and the changes from it, and back.

    For agent i, with its observations :math:`o_{i,0}, \dots, o_{i,H}`,

    .. math:: x_{i,0} = \frac{o_{i,0} - m_i}{d_i}, \qquad
        x_{i,k} = \frac{o_{i,k} - o_{i,0}}{s_{i,k}}, \quad k = 1..H ,

    elementwise, with mean :math:`m_i` and deviation :math:`d_i` of the observations and the root
    mean square :math:`s_{i,k}` of their changes in k steps. An invertible linear map: whatever is
    known of a window is known of its image. In it every entry has about unit size, so that a small
    error of a network is small beside what one step changes, from which actions are told.

    Args:
        n_agents (int): number of agents n.
        observation_dim (int): entries O of one agent's observation.
        horizon (int): steps H of a window beyond the current one, at least 1.
        device (torch.device, optional): where the scales live.

    Examples:
        >>> frame = PlanFrame(2, 3, horizon=4)
        >>> window = torch.randn(8, 5, 2, 3)
        >>> plan = frame.encode(window[:, 0], window[:, 1:])
        >>> plan.shape
        torch.Size([8, 2, 5, 3])
        >>> current, future = frame.decode(plan)
        >>> torch.allclose(future, window[:, 1:], atol=1e-5)
        True
    """

    mean: Tensor
    deviation: Tensor
    change: Tensor

    def __init__(
        self,
        n_agents: int,
        observation_dim: int,
        horizon: int,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        shape = (n_agents, observation_dim)
        self.register_buffer("mean", torch.zeros(shape, device=device))
        self.register_buffer("deviation", torch.ones(shape, device=device))
        self.register_buffer("change", torch.ones(n_agents, horizon, observation_dim).to(device))

    def fit(
        self,
        observation: Tensor,
        next_observation: Tensor,
        episode: Tensor,
        rows: Tensor | None = None,
    ) -> PlanFrame:
        """Take the scales from logged transitions in time order.

        Args:
            observation (Tensor): ``[T, n, O]``.
            next_observation (Tensor): ``[T, n, O]``.
            episode (Tensor): the episode of each transition, ``[T]``; at least one transition.
            rows (Tensor, optional): the transitions that are looked at, int64; ``None``: all.
        """
        total = len(observation)
        rows = torch.arange(total) if rows is None else rows
        device = self.mean.device
        current = observation[rows].to(device).float()
        self.mean.copy_(current.mean(0))
        self.deviation.copy_(_or_one(current.std(0, correction=0)))
        scale = torch.ones_like(self.mean)
        for k in range(self.change.shape[1]):
            later = rows + k
            inside = later < total
            later = later.clamp_max(total - 1)
            inside &= episode[later] == episode[rows]
            if inside.any():  # else windows are never this long
                change = next_observation[later[inside]].to(device).float() - current[inside]
                scale = change.square().mean(0).sqrt()
            self.change[:, k] = torch.where(scale < _CONSTANT, 0.0, scale)
        return self

    def encode(self, current: Tensor, future: Tensor) -> Tensor:
        """Map windows.

        Args:
            current (Tensor): ``[*B, n, O]``.
            future (Tensor): the H observations that follow, ``[*B, H, n, O]``.

        Returns:
            Tensor: ``[*B, n, 1 + H, O]``.
        """
        changes = (future - current.unsqueeze(-3)).transpose(-2, -3) / _or_one(self.change)
        return torch.cat([self.encode_current(current).unsqueeze(-2), changes], -2)

    def encode_current(self, current: Tensor) -> Tensor:
        """Map current observations ``[*B, n, O]``; what all plans begin with."""
        return (current - self.mean) / self.deviation

    def encode_step(self, current: Tensor, following: Tensor) -> Tensor:
        """Map one step's change, ``[*B, n, O]`` from observations of the same shape."""
        return (following - current) / _or_one(self.change[:, 0])

    def decode(self, plan: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``[*B, n, 1 + H, O]`` back to windows ``[*B, n, O]`` and ``[*B, H, n, O]``."""
        current = plan[..., 0, :] * self.deviation + self.mean
        changes = (plan[..., 1:, :] * self.change).transpose(-2, -3)
        return current, current.unsqueeze(-3) + changes


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale < _CONSTANT, 1.0, scale)
