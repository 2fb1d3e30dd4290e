"""Exact noise prediction for finite Gaussian mixtures: the truth that learned scores must meet."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarl_ssd.modules.mixture import GaussianMixture
from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.score import NoisePredictor, ScoreContext


class MixtureScore(NoisePredictor):
    r"""Exact conditional scores of a mixture of ``K`` joint modes with isotropic noise.

    The joint density is :math:`\mu(a) = \sum_k w_k \prod_j N(a_j; m_{kj}, s^2 I)`. Given a prefix,
    the modes are reweighted by how well they explain it, and noising only widens them:

    .. math::
        \mu_i^t(a_i^t | a_{<i}) = \sum_k \rho_k N(a_i^t; \alpha_t m_{ki}, \alpha_t^2 s^2 +
        \sigma_t^2), \qquad \rho_k \propto w_k \prod_{j \in prefix} N(a_j; m_{kj}, s^2) .

    Args:
        modes (Tensor): the modes' joint actions, ``[K, n, d]``, in [-1, 1].
        noise (float): standard deviation :math:`s` around a mode, positive.
        weights (Tensor, optional): the modes' probabilities, ``[K]``; equal if not given.
        joint (bool): one factor for the whole joint action instead of one per agent.
        schedule (VPNoiseSchedule, optional): the noising process.

    Examples:
        >>> score = MixtureScore(torch.tensor([[[0.8], [0.8]], [[-0.8], [-0.8]]]), noise=0.1)
        >>> given_first = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
        >>> context = score.encode(torch.zeros(2, 1, 0), torch.tensor([[0.8, 0.0]]), given_first)
        >>> context.mean[:, 0, 0]  # agent 1 may do either; agent 2 follows agent 1
        tensor([0.0000, 0.8000])
    """

    modes: Tensor
    factor_modes: Tensor
    log_weights: Tensor

    def __init__(
        self,
        modes: Tensor,
        noise: float,
        weights: Tensor | None = None,
        joint: bool = False,
        schedule: VPNoiseSchedule | None = None,
    ) -> None:
        super().__init__()
        n_modes = modes.shape[0]
        if weights is None:
            weights = torch.full((n_modes,), 1 / n_modes, device=modes.device)
        self.noise = noise
        self.schedule = schedule or VPNoiseSchedule()
        self.register_buffer("modes", modes.reshape(n_modes, -1))  # [K, A]
        factors = modes.reshape(n_modes, 1, -1) if joint else modes
        self.register_buffer("factor_modes", factors.transpose(0, 1).contiguous())  # [n, K, d]
        self.register_buffer("log_weights", weights.log())

    def encode(self, condition: Tensor, prefix: Tensor, mask: Tensor) -> ScoreContext:
        """See :meth:`NoisePredictor.encode`; the condition is ignored, the density has none."""
        squared = (prefix.unsqueeze(1) - self.modes) ** 2  # [M, K, A]
        mask = mask.expand(mask.shape[0], prefix.shape[0], mask.shape[-1])
        log_rho = self.log_weights - torch.einsum("mka,nma->nmk", squared, mask) / (
            2 * self.noise**2
        )
        rho = log_rho.softmax(-1)
        mean = torch.einsum("nmk,nkd->nmd", rho, self.factor_modes)
        return ScoreContext(mean, torch.full_like(mean, self.noise), log_rho)

    def denoise(self, context: ScoreContext, noised: Tensor, t: Tensor) -> Tensor:
        """See :meth:`NoisePredictor.denoise`."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        centres = self.factor_modes[:, None, None]  # [n, 1, 1, K, d]
        mixture = GaussianMixture(
            centres, torch.full_like(centres, self.noise**2), context.hidden.unsqueeze(1)
        )
        return mixture.predicted_noise(noised, alpha, sigma)
