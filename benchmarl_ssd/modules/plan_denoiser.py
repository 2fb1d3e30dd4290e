"""The networks that denoise plans of a team: a regression, and attention for what it leaves."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from benchmarl_ssd.modules.stacked import StackedLinear, StackedMLP

_N_TIME_FREQUENCIES = 4
_MIN_SCALE = 0.01
_FIRST_LOGIT = -3.0  # a scale of 0.8


class PlanDenoiser(nn.Module):
    r"""Denoises plans of all agents, which attend to each other.

    Every agent has layers of its own; between them, agents exchange what they know by
    self-attention over the team (Vaswani et al., arXiv 1706.03762).

    Args:
        n_agents (int): number of agents n.
        plan_dim (int): entries D of one agent's plan.
        width (int): features per agent, a multiple of ``n_heads``.
        depth (int): blocks of attention and layers, at least 1.
        n_heads (int): heads of the attention, at least 1.
        device (torch.device, optional): where the parameters live.

    Raises:
        ValueError: if the width is no multiple of the heads, or there is no block.

    Examples:
        >>> denoiser = PlanDenoiser(3, 10, width=16, n_heads=2)
        >>> plan, known = torch.zeros(3, 7, 10), torch.zeros(3, 7, 1)
        >>> denoiser(plan, known, torch.full((7, 1), 0.5), torch.zeros(7, 2)).shape
        torch.Size([3, 7, 10])
    """

    def __init__(
        self,
        n_agents: int,
        plan_dim: int,
        width: int = 128,
        depth: int = 1,
        n_heads: int = 4,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if depth < 1 or n_heads < 1 or width < 1 or width % n_heads:
            raise ValueError(
                "expected plan_depth and plan_heads of at least 1 and plan_width a multiple of "
                f"plan_heads, found {depth}, {n_heads} and {width}"
            )
        self.n_heads = n_heads
        n_features = plan_dim + 1 + (1 + 2 * _N_TIME_FREQUENCIES) + 2
        self.to_hidden = StackedLinear(n_agents, n_features, width, device=device)
        self.attention = nn.ModuleList(
            StackedLinear(n_agents, width, 3 * width, device=device) for _ in range(depth)
        )
        self.blocks = nn.ModuleList(
            StackedMLP(n_agents, [2 * width, width, width], device=device) for _ in range(depth)
        )
        self.to_plan = StackedLinear(n_agents, width, plan_dim, device=device)

    def forward(self, plan: Tensor, known: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """Predict, in units of what is to be predicted.

        Args:
            plan (Tensor): noised plans, of unit size, ``[n, M, D]``.
            known (Tensor): 1 for agents whose current observation is given, ``[n, M, 1]``.
            times (Tensor): noise times, ``[M, 1]``.
            condition (Tensor): what the plans are to achieve, ``[M, 2]``.

        Returns:
            Tensor: ``[n, M, D]``.
        """
        n, rows = plan.shape[:2]
        team = torch.cat([_time_features(times), condition], -1).expand(n, rows, -1)
        hidden = self.to_hidden(torch.cat([plan, known, team], -1))
        for attention, block in zip(self.attention, self.blocks, strict=True):
            told = self._attend(attention(torch.relu(hidden)))
            hidden = hidden + block(torch.relu(torch.cat([hidden, told], -1)))
        return self.to_plan(torch.relu(hidden))

    def _attend(self, projected: Tensor) -> Tensor:
        n, rows, width = projected.shape[0], projected.shape[1], projected.shape[2] // 3
        heads = projected.reshape(n, rows, 3, self.n_heads, width // self.n_heads)
        query, key, value = heads.permute(2, 1, 3, 0, 4)  # each [M, heads, n, width / heads]
        told = nn.functional.scaled_dot_product_attention(query, key, value)
        return told.permute(2, 0, 1, 3).reshape(n, rows, width)


class PlanRegression(nn.Module):
    r"""What each agent will observe, as far as its own current observation tells in the mean.

    It gives the mean :math:`m_{i,k}(x_{i,0}, \rho)` of each agent's changes, and the deviation
    :math:`s_{i,k}` of what remains, one number per entry.

    Args:
        n_agents (int): number of agents n.
        observation_dim (int): entries O of one agent's observation.
        horizon (int): steps H, at least 1.
        width (int): features of the two hidden layers.
        device (torch.device, optional): where the parameters live.

    Examples:
        >>> regression = PlanRegression(3, 4, horizon=5, width=16)
        >>> regression(torch.zeros(7, 3, 4), torch.zeros(7, 2)).shape, regression.scale.shape
        (torch.Size([7, 3, 5, 4]), torch.Size([3, 5, 4]))
    """

    def __init__(
        self,
        n_agents: int,
        observation_dim: int,
        horizon: int,
        width: int,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        sizes = [observation_dim + 2, width, width, horizon * observation_dim]
        self.layers = StackedMLP(n_agents, sizes, device=device)
        shape = (n_agents, horizon, observation_dim)
        self.scale_logit = nn.Parameter(torch.full(shape, _FIRST_LOGIT, device=device))

    @property
    def scale(self) -> Tensor:
        """Deviation of what the mean leaves, ``[n, H, O]``, in [0.01, 1]."""
        # A clamp would hold for good whatever steps beyond it.
        return (math.log(_MIN_SCALE) * torch.sigmoid(self.scale_logit)).exp()

    def forward(self, current: Tensor, condition: Tensor) -> Tensor:
        """Predict the mean.

        Args:
            current (Tensor): current observations in the frame's coordinates, ``[M, n, O]``.
            condition (Tensor): what the plans are to achieve, ``[M, 2]``.

        Returns:
            Tensor: ``[M, n, H, O]``.
        """
        rows, n, size = current.shape
        told = condition.unsqueeze(1).expand(rows, n, -1)
        mean = self.layers(torch.cat([current, told], -1).transpose(0, 1)).transpose(0, 1)
        return mean.reshape(rows, n, -1, size)


def _time_features(t: Tensor) -> Tensor:
    angles = t * torch.arange(1, _N_TIME_FREQUENCIES + 1, device=t.device) * (math.pi / 2)
    return torch.cat([t, angles.sin(), angles.cos()], -1)
