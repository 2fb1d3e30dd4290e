"""Densities of what each agent of a team was logged to do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.stacked import StackedMLP

# Narrowest and widest standard deviation of a component, actions in [-1, 1].
_SCALES = (0.02, 2.0)


class BehaviourNetwork(TensorDictModuleBase):
    r"""Every agent's logged behaviour as a mixture of Gaussians, given what the agent observes.

    .. math:: \mu_i(a_i | o_i) = \sum_k w_k(o_i)\, N\bigl(a_i; m_k(o_i), s_k(o_i)^2\bigr)

    A mixture density network; see :func:`behaviour_log_prob` for what it says of an action.

    Args:
        n_agents (int): number of agents; each has a network of its own.
        observation_dim (int): features of one agent's observation.
        action_dim (int): size of one agent's action.
        observation_keys (sequence of NestedKey): entries ``[*B, n, ...]`` that an agent sees.
        n_components (int): Gaussians of the mixture, at least 1.
        hidden_sizes (sequence of int): widths of the layers.
        out_key (NestedKey): where the mixture is written, ``[*B, n, K, 2 d + 1]``.
        device (torch.device, optional): where the parameters live.

    Raises:
        ValueError: if there is no component.

    Examples:
        >>> from tensordict import TensorDict
        >>> network = BehaviourNetwork(3, 4, 2, [("agents", "observation")])
        >>> data = TensorDict({"agents": {"observation": torch.zeros(8, 3, 4)}}, [8])
        >>> behaviour_log_prob(network(data)["behaviour"], torch.zeros(8, 3, 2)).shape
        torch.Size([8, 3])
    """

    def __init__(
        self,
        n_agents: int,
        observation_dim: int,
        action_dim: int,
        observation_keys: Sequence[NestedKey],
        n_components: int = 5,
        hidden_sizes: Sequence[int] = (128, 128),
        out_key: NestedKey = "behaviour",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if n_components < 1:
            raise ValueError(f"expected n_components of at least 1, found {n_components}")
        self.n_agents, self.shape = n_agents, (n_components, 2 * action_dim + 1)
        self.in_keys, self.out_keys = list(observation_keys), [out_key]
        sizes = [observation_dim, *hidden_sizes, math.prod(self.shape)]
        self.heads = StackedMLP(n_agents, sizes, device=device)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write every agent's mixture."""
        batch = tensordict.batch_size
        entries = [tensordict.get(key) for key in self.in_keys]
        rows = [x.reshape(batch.numel(), self.n_agents, -1) for x in entries]
        mixture = self.heads(torch.cat(rows, -1).transpose(0, 1)).transpose(0, 1)
        return tensordict.set(self.out_keys[0], mixture.reshape(*batch, self.n_agents, *self.shape))


def behaviour_log_prob(mixture: Tensor, action: Tensor) -> Tensor:
    """Log-density of each agent's action under its mixture.

    Args:
        mixture (Tensor): as :class:`BehaviourNetwork` writes it, ``[*B, n, K, 2 d + 1]``.
        action (Tensor): in [-1, 1], ``[*B, n, d]``.

    Returns:
        Tensor: ``[*B, n]``, in nats.
    """
    size = action.shape[-1]
    logit, mean, log_scale = mixture.split([1, size, size], -1)
    low, high = (math.log(scale) for scale in _SCALES)
    log_scale = low + (high - low) * torch.sigmoid(log_scale)
    # Means start apart: what all components share from their start on, no fit tells apart again.
    start = torch.linspace(-1, 1, mixture.shape[-2] + 2, device=mixture.device)[1:-1]
    distance = (action.unsqueeze(-2) - mean - start.unsqueeze(-1)) / log_scale.exp()
    log_normal = (-0.5 * distance**2 - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    return (logit.squeeze(-1).log_softmax(-1) + log_normal).logsumexp(-1)
