"""Layers that hold one set of parameters per agent and run them as one batched product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class StackedLinear(nn.Module):
    r"""``n`` independent linear layers, :math:`y_i = x_i W_i + b_i`, in one batched product.

    Args:
        n (int): number of layers (agents), at least 1.
        in_features (int): features of each input.
        out_features (int): features of each output.
        bias (bool): whether a bias is added.
        zero (bool): start from parameters that are all zero.
        device (torch.device, optional): where the parameters live.

    Shapes: input ``[n, M, in]`` (or ``[n, K, M, in]``), output the same with ``out``.

    Examples:
        >>> layer = StackedLinear(3, 5, 2)
        >>> layer(torch.zeros(3, 7, 5)).shape
        torch.Size([3, 7, 2])
    """

    def __init__(
        self,
        n: int,
        in_features: int,
        out_features: int,
        bias: bool = True,
        zero: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.zero = zero
        self.weight = nn.Parameter(torch.empty(n, in_features, out_features, device=device))
        self.bias = nn.Parameter(torch.empty(n, 1, out_features, device=device)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters as ``torch.nn.Linear`` does: uniform within 1/sqrt(in)."""
        bound = 0.0 if self.zero else 1 / math.sqrt(max(1, self.weight.shape[1]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Apply layer ``i`` to ``x[i]``."""
        n, shape = x.shape[0], x.shape[1:-1]
        flat = x.reshape(n, -1, x.shape[-1])
        out = (
            torch.bmm(flat, self.weight)
            if self.bias is None
            else torch.baddbmm(self.bias, flat, self.weight)
        )
        return out.reshape(n, *shape, out.shape[-1])


class StackedMLP(nn.Sequential):
    """``n`` independent multi-layer perceptrons.

    Args:
        n (int): number of networks (agents).
        sizes (sequence of int): input, hidden and output sizes, at least two numbers.
        activate_last (bool): whether the output is activated too.
        activation (type): class of the activations. ReLU fits the bends of contacts and nearest
            neighbours with far fewer steps than smooth activations do.
        zero_last (bool): start with the output zero.
        device (torch.device, optional): where the parameters live.

    Examples:
        >>> StackedMLP(2, [3, 16, 1])(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 5, 1])
    """

    def __init__(
        self,
        n: int,
        sizes: Sequence[int],
        activate_last: bool = False,
        activation: type[nn.Module] = nn.ReLU,
        zero_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        last = len(sizes) - 2
        for index, (in_features, out_features) in enumerate(pairwise(sizes)):
            zero = zero_last and index == last
            layers.append(StackedLinear(n, in_features, out_features, zero=zero, device=device))
            if index < last or activate_last:
                layers.append(activation())
        super().__init__(*layers)
