"""Finds the conventions in a team's data, and settles on one of them."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictParams
from tensordict.utils import NestedKey
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarl_ssd.modules.conventions import ConventionNetwork, responsibilities
from benchmarl_ssd.objectives.common import OfflineLoss

# Memory of the running averages, in calls.
_HORIZON = 200
# A convention that explains less of the data than this share of its due is none.
_LEAST_SHARE = 0.25


class ConventionMixin(OfflineLoss):
    r"""Joint expectation maximisation of a team's mixture of conventions.

    1. :math:`\rho_k` of a transition is the posterior over conventions, with the squared errors
       *summed over all agents* (:func:`~benchmarl_ssd.modules.conventions.responsibilities`); the
       exponent grows from 0 to 1 over ``sharpening_steps`` calls, so that heads part slowly.
    2. :math:`L = \sum_k \rho_k \sum_i \|a_i - m_{k,i}(o_i)\|^2 / n d`, :math:`\rho` detached.

    The variance :math:`s^2`, every convention's share of the data and the mean value of what it
    does are running averages in buffers. The convention to follow is the one of the highest value
    among those with a share of at least a quarter of 1/K.
    """

    convention_network: ConventionNetwork
    convention_network_params: TensorDictParams
    target_convention_network_params: TensorDictParams
    convention_variance: Tensor
    convention_share: Tensor
    convention_value: Tensor

    def _set_up_conventions(
        self,
        network: ConventionNetwork | None,
        key: NestedKey = ("agents", "convention"),
        sharpening_steps: int = 500,
    ) -> None:
        self.n_conventions = 1 if network is None else network.n_conventions
        self.convention_key, self.sharpening_steps = key, sharpening_steps
        if network is None:
            return
        self.convert_to_functional(network, "convention_network")
        k = self.n_conventions
        device = next(iter(network.parameters())).device
        self.register_buffer("convention_variance", torch.tensor(1.0, device=device))
        self.register_buffer("convention_share", torch.full((k,), 1 / k, device=device))
        self.register_buffer("convention_value", torch.zeros(k, device=device))

    @property
    def convention(self) -> int:
        """The convention that the policies are to follow."""
        used = self.convention_share >= _LEAST_SHARE / self.n_conventions
        return int(self.convention_value.masked_fill(~used, -torch.inf).argmax())

    def _told(self, tensordict: TensorDictBase, convention: Tensor) -> TensorDictBase:
        """Tell the score a convention (an index, ``[*B]`` or one for all), beside the data."""
        told = one_hot(convention, self.n_conventions).to(self.convention_share.dtype)
        shape = (*tensordict.batch_size, self.convention_network.n_agents, self.n_conventions)
        told = told.unsqueeze(-2).expand(shape)
        return tensordict.copy().set(self.convention_key, told)

    def told_convention(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Add the entry that tells the score which convention the policies follow, if any."""
        if self.n_conventions == 1:
            return tensordict
        index = torch.tensor(self.convention, device=self.convention_share.device)
        return self._told(tensordict, index)

    def _parted(self, tensordict: TensorDictBase, sharpness: float) -> tuple[Tensor, Tensor]:
        """Squared errors ``[*B, K]`` and responsibilities ``[*B, K]``."""
        action = self.action_scaler.scale(tensordict.get(self.tensor_keys.action))
        network = self.convention_network
        with self.convention_network_params.to_module(network):
            read = tensordict.select(*network.in_keys, strict=False)
            means = network(read).get(network.action_key)
        variance = self.convention_variance
        posterior = responsibilities(action, means.detach(), variance, sharpness)
        return ((action.unsqueeze(-2) - means) ** 2).mean((-1, -3)), posterior

    def convention_loss(
        self, tensordict: TensorDictBase, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Per-sample loss ``[*B]``, metrics, and responsibilities ``[*B, K]``."""
        sharpness = min(1.0, step / max(1, self.sharpening_steps))
        squared, posterior = self._parted(tensordict, sharpness)
        loss = (posterior * squared).sum(-1)
        if self.training:
            self._follow(posterior, loss.detach())
        largest = self.convention_share.max()
        return loss, {"convention_error": loss.mean(), "convention_share": largest}, posterior

    @torch.no_grad()
    def _follow(self, posterior: Tensor, error: Tensor) -> None:
        rows = posterior.reshape(-1, self.n_conventions)
        self.convention_variance.lerp_(error.mean().clamp_min(1e-4), 10 / _HORIZON)
        self.convention_share.lerp_(rows.mean(0), 1 / _HORIZON)

    @torch.no_grad()
    def value_conventions(self, tensordict: TensorDictBase, value: Tensor) -> None:
        """Average the critic's values ``[*B]`` of the logged actions by convention."""
        _, posterior = self._parted(tensordict, 1.0)
        rows = posterior.reshape(-1, self.n_conventions)
        found = rows.sum(0)
        mean = (rows * value.reshape(-1, 1)).sum(0) / found.clamp_min(1e-6)
        # As much as there is of it: a batch without a convention says nothing of its value.
        expected = (len(rows) * self.convention_share).clamp_min(1e-6)
        rate = (found / expected / _HORIZON).clamp_max(1.0)
        self.convention_value.add_(rate * (mean - self.convention_value))
