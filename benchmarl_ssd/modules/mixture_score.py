"""Conditional scores of Gaussian mixtures, an alternative to denoisers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarl_ssd.modules.mixture import GaussianMixture
from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.score import NoisePredictor, ScoreContext
from benchmarl_ssd.modules.stacked import StackedMLP

# Densities are compared after this much noise, which bounds them where actions sit on a bound.
_SMOOTHING = 0.02


@dataclass
class MixtureContext(ScoreContext):
    """A context that holds the conditional density itself.

    Attributes:
        mixture (GaussianMixture): of every factor and row, batch ``[n, M]``.
    """

    mixture: GaussianMixture | None = None


class MixtureScoreNetwork(NoisePredictor):
    r"""Mixture density network (Bishop, 1994) whose scores are known at every noise level.

    Maximum likelihood fits :math:`\mu_i(a_i | c) = \sum_c w_c N(a_i; m_c, s_c^2)`; noising only
    widens the components, so :math:`\epsilon_i(a_i^t, t | c)` follows in closed form
    (:class:`~benchmarl_ssd.modules.mixture.GaussianMixture`). No noise levels have to be learned;
    what a few Gaussians cannot express is lost.

    Args:
        n_factors (int): number of factors (agents; 1 for a joint score).
        condition_dim (int): features of the condition of one factor.
        prefix_dim (int): size of the joint action, 0 if no factor sees other agents' actions.
        action_dim (int): size of one factor's action.
        hidden_sizes (sequence of int): widths of the part that sees the prefix.
        regression_sizes (sequence of int): widths of the part that sees the condition only.
        components (int): Gaussians per factor, at least 1.
        schedule (VPNoiseSchedule, optional): the noising process.
        device (torch.device, optional): where the parameters live.

    Examples:
        >>> network = MixtureScoreNetwork(2, condition_dim=4, prefix_dim=6, action_dim=3)
        >>> context = network.encode(torch.zeros(2, 5, 4), torch.zeros(5, 6), torch.ones(2, 1, 6))
        >>> network.denoise(context, torch.zeros(2, 1, 5, 3), torch.full((2, 1, 5, 1), 0.5)).shape
        torch.Size([2, 1, 5, 3])
    """

    def __init__(
        self,
        n_factors: int,
        condition_dim: int,
        prefix_dim: int,
        action_dim: int,
        hidden_sizes: Sequence[int] = (64, 64),
        regression_sizes: Sequence[int] = (128, 128),
        components: int = 6,
        schedule: VPNoiseSchedule | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"expected at least one component, found {components}")
        self.n_factors, self.prefix_dim, self.components = n_factors, prefix_dim, components
        self.schedule = schedule or VPNoiseSchedule()
        n_out = GaussianMixture.n_features(components, action_dim)
        self.features = StackedMLP(
            n_factors, [condition_dim, *regression_sizes, n_out], device=device
        )
        self.correction = None
        if prefix_dim:
            sizes = [condition_dim + 2 * prefix_dim, *hidden_sizes, n_out]
            self.correction = StackedMLP(n_factors, sizes, zero_last=True, device=device)

    def encode(self, condition: Tensor, prefix: Tensor, mask: Tensor) -> MixtureContext:
        """See :meth:`NoisePredictor.encode`."""
        features = self.features(condition)
        if self.correction is not None:
            mask = mask.expand(self.n_factors, condition.shape[1], self.prefix_dim)
            given = torch.cat([condition, prefix * mask, mask], -1)
            features = features + self.correction(given)
        mixture = GaussianMixture.from_features(features, self.components)
        weight = mixture.log_weight.exp().unsqueeze(-1)
        mean = (weight * mixture.mean).sum(-2)
        square = (weight * (mixture.variance + mixture.mean**2)).sum(-2)
        scale = (square - mean**2).clamp_min(1e-6).sqrt()
        return MixtureContext(mean, scale, features, mixture=mixture)

    def fit_error(self, context: ScoreContext, action: Tensor) -> Tensor:
        """Negative log-likelihood of the logged actions in nats per entry, ``[n, M, 1]``."""
        density = _mixture(context).log_density(action, _SMOOTHING)
        return -density.unsqueeze(-1) / action.shape[-1]

    def denoise(self, context: ScoreContext, noised: Tensor, t: Tensor) -> Tensor:
        """See :meth:`NoisePredictor.denoise`. Known, not learned: no gradient comes from here."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        mixture = _mixture(context).unsqueeze(1)
        return mixture.predicted_noise(noised, alpha, sigma).detach()


def _mixture(context: ScoreContext) -> GaussianMixture:
    assert isinstance(context, MixtureContext)
    assert context.mixture is not None
    return context.mixture
