"""Gaussian mixtures whose parameters a network gives: densities and noise predictions in one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class GaussianMixture:
    r"""Mixtures of ``C`` Gaussians with diagonal covariances over actions of ``d`` entries.

    Noising a mixture only widens it, so its density and its best prediction of the noise are known
    at every noise level: with responsibilities :math:`\rho_c` of the components for :math:`a^t`,

    .. math::
        \epsilon(a^t, t) = \sigma_t \sum_c \rho_c(a^t)
            \frac{a^t - \alpha_t m_c}{\alpha_t^2 s_c^2 + \sigma_t^2} .

    Attributes:
        mean (Tensor): ``[*B, C, d]``.
        variance (Tensor): :math:`s_c^2`, ``[*B, C, d]``, may be zero where noise is added.
        log_weight (Tensor): normalised, ``[*B, C]``.

    Examples:
        >>> two = GaussianMixture(
        ...     torch.tensor([[-0.8], [0.8]]), torch.zeros(2, 1), torch.full((2,), 0.5).log())
        >>> two.predicted_noise(torch.tensor([0.9]), torch.tensor(1.0), torch.tensor(0.1))
        tensor([1.0000])
    """

    mean: Tensor
    variance: Tensor
    log_weight: Tensor

    @classmethod
    def from_features(cls, features: Tensor, components: int) -> GaussianMixture:
        """Read a mixture from a network's output, with means a little beyond [-1, 1] at most.

        Args:
            features (Tensor): ``[*B, C * (2 d + 1)]``: means, log standard deviations, logits.
            components (int): C.
        """
        size = (features.shape[-1] // components - 1) // 2
        means, scales, logits = features.split([components * size] * 2 + [components], -1)
        return cls(
            # Bounded actions are often at their bounds: a mean can be exactly there, and stay.
            mean=1.02 * means.unflatten(-1, (components, size)).tanh(),
            variance=(2 * scales.unflatten(-1, (components, size)).clamp(-6.0, 1.0)).exp(),
            log_weight=logits.log_softmax(-1),
        )

    @staticmethod
    def n_features(components: int, size: int) -> int:
        """Number of features that describe a mixture: see :meth:`from_features`."""
        return components * (2 * size + 1)

    def log_density(self, value: Tensor, noise: float) -> Tensor:
        r"""Log density of :math:`a + \text{noise}\, z` at ``value`` (``[*B, d]``), in nats.

        Examples:
            >>> one = GaussianMixture(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1))
            >>> round(one.log_density(torch.zeros(1), noise=1.0).item(), 4)
            -0.9189
        """
        variance = self.variance + noise**2
        offset = value.unsqueeze(-2) - self.mean
        each = offset.square() / variance + variance.log() + math.log(2 * math.pi)
        return torch.logsumexp(self.log_weight - 0.5 * each.sum(-1), -1)

    def predicted_noise(self, noised: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Best prediction of the noise in ``noised`` (``[*B, d]``).

        Args:
            noised (Tensor): noised actions.
            alpha (Tensor): scale of the signal, broadcastable to ``noised``.
            sigma (Tensor): standard deviation of the noise, likewise.
        """
        alpha, sigma = alpha.unsqueeze(-1), sigma.unsqueeze(-1)
        variance = alpha**2 * self.variance + sigma**2
        offset = noised.unsqueeze(-2) - alpha * self.mean
        each = offset.square() / variance + variance.log()
        rho = (self.log_weight - 0.5 * each.sum(-1)).softmax(-1)
        return (rho.unsqueeze(-1) * sigma * offset / variance).sum(-2)

    def unsqueeze(self, dim: int) -> GaussianMixture:
        """Insert a batch dimension before ``dim``, counted from the front."""
        return GaussianMixture(
            self.mean.unsqueeze(dim), self.variance.unsqueeze(dim), self.log_weight.unsqueeze(dim)
        )
