"""From a network's output to the action, as policies decide in evaluation."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import ProbabilisticTensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.modules import (
    Delta,
    IndependentNormal,
    MaskedCategorical,
    QValueModule,
    TanhDelta,
    TanhNormal,
)

from benchmarl_ssd.algorithms.networks import CentredTanhDelta
from benchmarl_ssd.deployment.errors import ExportError

_KINDS = "TanhDelta, Delta, TanhNormal, IndependentNormal, Categorical or MaskedCategorical"


class SquashedHead(nn.Module):
    r"""A squashed distribution's decision, :math:`a = m + r \tanh x` for bounds :math:`m \pm r`.

    Args:
        low (Tensor): lower bounds of the action, ``[n, action]``.
        high (Tensor): upper bounds of the action.
        shifted (bool): whether it is :math:`m + r \tanh(x + m)`, as TorchRL's ``TanhDelta`` has it.

    Examples:
        >>> SquashedHead(torch.tensor([[0.0]]), torch.tensor([[4.0]]))(torch.zeros(1, 1))
        tensor([[2.]])
    """

    middle: Tensor
    reach: Tensor

    def __init__(self, low: Tensor, high: Tensor, shifted: bool = False) -> None:
        super().__init__()
        # Symmetric bounds need no shift; it would only add an operation.
        self.shifted = shifted and bool((high + low).any())
        self.register_buffer("middle", (high + low) / 2)
        self.register_buffer("reach", (high - low) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """Squash into the bounds."""
        if self.shifted:
            x = x + self.middle
        return self.middle + self.reach * torch.tanh(x)


class ClippedHead(nn.Module):
    """The network's output itself, clipped where the policy clips it.

    Args:
        low (Tensor, optional): lower bounds, ``[n, action]``; None does not clip.
        high (Tensor, optional): upper bounds.
    """

    low: Tensor | None
    high: Tensor | None

    def __init__(self, low: Tensor | None = None, high: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)

    def forward(self, x: Tensor) -> Tensor:
        """Clip."""
        if self.low is None or self.high is None:
            return x
        return torch.minimum(torch.maximum(x, self.low), self.high)


class GreedyHead(nn.Module):
    """The index of the largest logit or action value, among the allowed ones if there is a mask.

    Examples:
        >>> GreedyHead()(torch.tensor([3.0, 5.0]), torch.tensor([True, False]))
        tensor(0)
    """

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Choose from ``values`` ``[..., choices]``."""
        if mask is not None:
            values = torch.where(mask, values, torch.finfo(values.dtype).min)
        return torch.argmax(values, -1)


def make_head(module: TensorDictModuleBase, agent: int | None) -> tuple[nn.Module, list[Any]]:
    """Give the deterministic decision of a policy's last module, and the keys it reads.

    Args:
        module: a ``ProbabilisticTensorDictModule`` or a ``QValueModule``.
        agent: index of the only agent to decide for; None: all of the group.

    Raises:
        ExportError: if it decides in a way that is not known here.
    """
    if isinstance(module, QValueModule):
        if module.action_space != "categorical":
            raise ExportError(
                f"expected actions as indices, found {module.action_space!r} actions; export "
                "policies with categorical actions"
            )
        mask = module.action_mask_key
        return GreedyHead(), [module.action_value_key, *([] if mask is None else [mask])]
    assert isinstance(module, ProbabilisticTensorDictModule)
    kind = module.distribution_class
    names = (key if isinstance(key, str) else key[-1] for key in module.dist_keys)
    reads = dict(zip(names, module.in_keys, strict=True))
    options = dict(module.distribution_kwargs)
    low, high = (_own(options.pop(side, None), agent) for side in ("low", "high"))
    if not options:
        if kind in (CentredTanhDelta, TanhDelta, TanhNormal):
            low = -torch.ones(()) if low is None else low
            high = torch.ones(()) if high is None else high
            name = "loc" if kind is TanhNormal else "param"
            return SquashedHead(low, high, kind is TanhDelta), [reads[name]]
        if kind is Delta:
            return ClippedHead(*_projection(module, agent)), [reads["param"]]
        if kind is IndependentNormal:
            return ClippedHead(), [reads["loc"]]
        if kind is Categorical:
            return GreedyHead(), [reads["logits"]]
        if kind is MaskedCategorical:
            return GreedyHead(), [reads["logits"], reads["mask"]]
    extra = f" with {', '.join(options)}" if options else ""
    raise ExportError(
        f"expected a policy that decides by {_KINDS}, found {getattr(kind, '__name__', kind)}"
        f"{extra}; such a policy cannot be exported"
    )


def _projection(module: Any, agent: int | None) -> tuple[Tensor | None, Tensor | None]:
    """Bounds into which a `safe` module brings an action."""
    if not getattr(module, "safe", False):
        return None, None
    space = module.spec[module.out_keys[0]].space
    return _own(space.low, agent), _own(space.high, agent)


def _own(bound: Any, agent: int | None) -> Tensor | None:
    if bound is None:
        return None
    bound = torch.as_tensor(bound).detach().cpu().float()
    return bound[agent : agent + 1] if agent is not None and bound.ndim > 1 else bound


class Head(TensorDictModuleBase):
    """Writes the action that a head decides on.

    Args:
        head (nn.Module): from the values at ``in_keys`` to the action.
        in_keys (list): where it reads.
        action_key (tuple): where it writes.
    """

    def __init__(self, head: nn.Module, in_keys: list[Any], action_key: tuple[str, str]) -> None:
        super().__init__()
        self.head = head
        self.in_keys, self.out_keys = in_keys, [action_key]

    def forward(self, data: TensorDictBase) -> TensorDictBase:
        """Decide."""
        return data.set(self.out_keys[0], self.head(*(data.get(key) for key in self.in_keys)))
