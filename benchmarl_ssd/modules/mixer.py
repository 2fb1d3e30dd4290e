"""A team's value as a weighted sum of its agents' values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor, nn


class LinearMixer(TensorDictModuleBase):
    r"""Adds up local values with weights that depend on the state and are never negative,

    .. math:: V_{tot} = \sum_i w_i(s) V_i + b(s), \qquad w_i = |1 + f_i(s)| \ge 0,

    so that what is better for an agent alone is not worse for the team (Wang et al.,
    arXiv 2307.11620; Yang et al., arXiv 2106.03400). Meant as the last module of a critic, behind
    one that writes the local values.

    The 1 lets it start near the plain sum; the originals' :math:`|f_i|` is the same function but
    for that. A product of two factors learns where it is large already: from uneven small weights,
    one agent is given the credit for what several always do together, and the others learn nothing.

    Args:
        n_agents (int): number of agents.
        context_dim (int): features of all context entries together.
        context_keys (sequence of NestedKey): the state, or what all agents observe, ``[*B, ...]``.
        value_key (NestedKey): the local values, ``[*B, n, 1]``.
        out_key (NestedKey): where the total is written, ``[*B, 1]``.
        hidden_sizes (sequence of int): widths of the layers.
        device (torch.device, optional): where the parameters live.

    Raises:
        ValueError: if there is no context.

    Examples:
        >>> from tensordict import TensorDict
        >>> mixer = LinearMixer(2, 3, ["state"], ("agents", "value"))
        >>> data = TensorDict({"state": torch.zeros(8, 3),
        ...                    "agents": {"value": torch.ones(8, 2, 1)}}, [8])
        >>> mixer(data)["state_action_value"].shape, mixer.weigh(data)[0].shape
        (torch.Size([8, 1]), torch.Size([8, 2]))
    """

    def __init__(
        self,
        n_agents: int,
        context_dim: int,
        context_keys: Sequence[NestedKey],
        value_key: NestedKey,
        out_key: NestedKey = "state_action_value",
        hidden_sizes: Sequence[int] = (64,),
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not context_keys or context_dim < 1:
            raise ValueError(
                f"expected a state to mix by, found {context_dim} features of {list(context_keys)}"
            )
        self.n_agents = n_agents
        self.context_keys = [unravel_key(key) for key in context_keys]
        self.value_key, self.out_key = unravel_key(value_key), unravel_key(out_key)
        self.in_keys = [*self.context_keys, self.value_key]
        self.out_keys = [self.out_key]
        sizes = [context_dim, *hidden_sizes]
        layers: list[nn.Module] = []
        for in_features, out_features in pairwise(sizes):
            layers += [nn.Linear(in_features, out_features, device=device), nn.ReLU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], n_agents + 1, device=device))

    def weigh(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Weights ``[*B, n]`` and bias ``[*B]`` in the entries' states."""
        batch = tensordict.batch_size
        entries = [tensordict.get(key).flatten(len(batch)) for key in self.context_keys]
        weights, bias = self.network(torch.cat(entries, -1)).split([self.n_agents, 1], -1)
        return (1 + weights).abs(), bias.squeeze(-1)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the total of the local values."""
        weights, bias = self.weigh(tensordict)
        total = (weights * tensordict.get(self.value_key).squeeze(-1)).sum(-1) + bias
        return tensordict.set(self.out_key, total.unsqueeze(-1))
