"""A latent choice that a whole team makes: which of its conventions it follows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.stacked import StackedMLP


class ConventionNetwork(TensorDictModuleBase):
    r"""What every agent does under each of K conventions, :math:`m_{k,i}(o_i)`.

    The team's behaviour as a finite mixture whose component is drawn once for all agents,

    .. math::
        \mu(a | o) = \sum_k \pi_k \prod_i N\bigl(a_i; m_{k,i}(o_i), s^2\bigr) .

    It says by one shared latent what the chain rule says by prefixes. See
    :class:`~benchmarl_ssd.objectives.conventions.ConventionMixin` for its fit.

    Args:
        n_agents (int): number of agents.
        n_conventions (int): K, at least 2.
        observation_dim (int): features of one agent's observation.
        action_dim (int): size of one agent's action.
        observation_keys (sequence of NestedKey): entries ``[*B, n, ...]`` that an agent sees.
        action_key (NestedKey): where the means are written, ``[*B, n, K, d]``.
        hidden_sizes (sequence of int): widths of the layers.
        device (torch.device, optional): where the parameters live.

    Examples:
        >>> from tensordict import TensorDict
        >>> network = ConventionNetwork(3, 2, 4, 1, [("agents", "observation")])
        >>> data = TensorDict({"agents": {"observation": torch.zeros(8, 3, 4)}}, [8])
        >>> network(data)["convention_action"].shape
        torch.Size([8, 3, 2, 1])
    """

    def __init__(
        self,
        n_agents: int,
        n_conventions: int,
        observation_dim: int,
        action_dim: int,
        observation_keys: Sequence[NestedKey],
        action_key: NestedKey = "convention_action",
        hidden_sizes: Sequence[int] = (128, 128),
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if n_conventions < 2:
            raise ValueError(f"expected n_conventions of at least 2, found {n_conventions}")
        self.n_agents, self.n_conventions, self.action_dim = n_agents, n_conventions, action_dim
        self.action_key = action_key
        self.in_keys, self.out_keys = list(observation_keys), [action_key]
        sizes = [observation_dim, *hidden_sizes, n_conventions * action_dim]
        self.heads = StackedMLP(n_agents, sizes, device=device)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write every convention's joint action."""
        entries = [tensordict.get(key) for key in self.in_keys]
        batch = tensordict.batch_size
        rows = [x.reshape(batch.numel(), self.n_agents, -1) for x in entries]
        means = self.heads(torch.cat(rows, -1).transpose(0, 1)).transpose(0, 1)
        shape = (*batch, self.n_agents, self.n_conventions, self.action_dim)
        return tensordict.set(self.action_key, means.reshape(shape))


def responsibilities(
    action: Tensor, means: Tensor, variance: Tensor | float, sharpness: float = 1.0
) -> Tensor:
    r"""Posterior over conventions given a joint action, of the whole team at once.

    .. math:: \rho_k \propto \exp\Bigl(-\kappa \sum_i \|a_i - m_{k,i}\|^2 / 2 s^2\Bigr)

    Args:
        action (Tensor): joint actions, ``[*B, n, d]``.
        means (Tensor): joint actions of the conventions, ``[*B, n, K, d]``.
        variance (Tensor or float): :math:`s^2`, positive.
        sharpness (float): :math:`\kappa` in [0, 1]; 0 tells no convention from another.

    Returns:
        Tensor: ``[*B, K]``, sums to one.

    Examples:
        >>> means = torch.tensor([[[0.8], [-0.8]], [[0.8], [-0.8]]])  # two agents, two conventions
        >>> responsibilities(torch.tensor([[0.7], [0.9]]), means, 0.01)
        tensor([1., 0.])
    """
    squared = ((action.unsqueeze(-2) - means) ** 2).sum((-1, -3))
    return (-sharpness * squared / (2 * variance)).softmax(-1)
