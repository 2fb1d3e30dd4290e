"""Affine map between a task's action bounds and [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ActionScaler(nn.Module):
    r"""Maps actions to [-1, 1] and back, :math:`u = 2 (a - low) / (high - low) - 1`.

    Args:
        low (Tensor or float): lower bounds, broadcastable to the action, finite.
        high (Tensor or float): upper bounds, larger than ``low``, finite.

    Raises:
        ValueError: if a bound is not finite or the bounds are not ordered.

    Examples:
        >>> scaler = ActionScaler(torch.tensor([0.0]), torch.tensor([4.0]))
        >>> scaler.scale(torch.tensor([1.0])), scaler.unscale(torch.tensor([-0.5]))
        (tensor([-0.5000]), tensor([1.]))
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor | float = -1.0, high: Tensor | float = 1.0) -> None:
        super().__init__()
        low, high = torch.as_tensor(low).float(), torch.as_tensor(high).float()
        if not (low.isfinite().all() and high.isfinite().all() and (low < high).all()):
            raise ValueError(
                f"expected finite action bounds with low < high, found low {low.tolist()} and high "
                f"{high.tolist()}; give the task's action spec bounds (diffusion needs a scale)"
            )
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())

    @property
    def trivial(self) -> bool:
        """Whether the task's bounds are -1 and 1, so that nothing changes."""
        return bool((self.low == -1).all() and (self.high == 1).all())

    def scale(self, action: Tensor) -> Tensor:
        """Map from the task's bounds to [-1, 1]."""
        return 2 * (action - self.low) / (self.high - self.low) - 1

    def unscale(self, scaled: Tensor) -> Tensor:
        """Map from [-1, 1] to the task's bounds."""
        return self.low + (scaled + 1) / 2 * (self.high - self.low)
