"""Denoising score matching of the conditional scores."""

from __future__ import annotations

import math

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictParams, dispatch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules import ActionScaler, ConditionalScore
from benchmarl_ssd.objectives.common import OfflineLoss

# Entropy of the uniform distribution on [-1, 1], less that of a Gaussian of standard deviation 1.
_UNIFORM_ENTROPY = math.log(2) - 0.5 * math.log(2 * math.pi * math.e)

# Noise of standard deviation 0.32: small against the action space, large against a fit's errors.
_INFORMATION_TIME = 0.1


class ScoreMatchingLoss(OfflineLoss):
    r"""Fits the scores of all agents, conditioned on the logged actions of those before them.

    With :math:`a_i^t = \alpha_t a_i + \sigma_t z`, :math:`z \sim N(0, I)` and
    :math:`t \sim U(t_{min}, 1)` (Qiao et al., arXiv 2505.05968, stage 1),

    .. math:: L_{score} = \sum_i E \| \epsilon_i(a_i^t, t | s, a_{<i}) - z \|^2 ,

    averaged over agents and action entries, which only changes its scale. The fits are
    independent of each other; they run as one batch. For a
    :class:`~benchmarl_ssd.modules.PreconditionedScoreNetwork` the loss also holds the regression
    :math:`\| m_i(s, a_{<i}) - a_i \|^2` and the negative log-likelihood of the residual's scale.

    Args:
        score_network (ConditionalScore): the scores.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        n_noise_draws (int): draws of (t, z) per transition, at least 1. They share one encoding.
        reduction (str): ``mean``, ``sum`` or ``none``.

    Examples:
        >>> from tensordict import TensorDict
        >>> score = ConditionalScore.build(2, 1, 6, [("agents", "observation")])
        >>> loss = ScoreMatchingLoss(score)
        >>> data = TensorDict({"agents": {"observation": torch.randn(8, 2, 3),
        ...                               "action": torch.rand(8, 2, 1)}}, [8])
        >>> sorted(loss(data).keys())
        ['denoising_error', 'information', 'loss_score', 'regression_error']
    """

    score_network: ConditionalScore
    score_network_params: TensorDictParams
    target_score_network_params: TensorDictParams
    loss_names: tuple[str, ...] = ("loss_score",)

    def __init__(
        self,
        score_network: ConditionalScore,
        action_scaler: ActionScaler | None = None,
        n_noise_draws: int = 4,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        self._set_up_score(score_network, n_noise_draws)

    def _set_up_score(self, score_network: ConditionalScore, n_noise_draws: int) -> None:
        if n_noise_draws < 1:
            raise ValueError(f"expected n_noise_draws of at least 1, found {n_noise_draws}")
        self.n_noise_draws = n_noise_draws
        self.convert_to_functional(score_network, "score_network")

    def _read_keys(self) -> list[NestedKey]:
        return [*super()._read_keys(), *self.score_network.condition_keys]

    def score_loss(
        self, tensordict: TensorDictBase, informed: bool = True
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` and metrics, ``information`` among them if asked for."""
        action = self.action_scaler.scale(tensordict.get(self.tensor_keys.action))
        score = self.score_network
        with self.score_network_params.to_module(score):
            context = score.encode(tensordict, action)
            shape = (self.n_noise_draws, *action.shape[:-2], score.n_factors, 1)
            t_min = score.schedule.t_min
            times = t_min + (1 - t_min) * torch.rand(shape, device=action.device)
            denoising = self._denoising_error(action, context, times)
            fit = score.fit_error(context, action)
            # [n_factors, M, d] -> [*B, n, d]: factors and their entries are the joint action's.
            residual = action - context.mean.detach().transpose(0, 1).reshape(action.shape)
            metrics = {
                "denoising_error": denoising.mean(),
                "regression_error": (residual**2).mean(),
            }
            if informed:
                metrics["information"] = self._information(action, context)
        return denoising + fit, metrics

    @torch.no_grad()
    def _information(self, action: Tensor, context) -> Tensor:
        """Nats by which the behaviour, seen at a small noise level, is narrower than uniform.

        A Gaussian of scale s has the denoising error e = alpha^2 s^2 / (alpha^2 s^2 + sigma^2);
        this takes the scale from the error, so that several narrow modes count as narrow.
        """
        n_factors = self.score_network.n_factors
        time = torch.full(
            (1, *action.shape[:-2], n_factors, 1), _INFORMATION_TIME, device=action.device
        )
        error = self._denoising_error(action, context, time).mean().clamp(1e-6, 0.99)
        schedule, level = self.score_network.schedule, time.new_full((), _INFORMATION_TIME)
        ratio = schedule.sigma(level) / schedule.alpha(level)
        scale = ratio * (error / (1 - error)).sqrt()
        return (_UNIFORM_ENTROPY - scale.log()).clamp_min(0)

    def _denoising_error(self, action: Tensor, context, t: Tensor) -> Tensor:
        """Mean over draws and entries, ``[*B]``, at times ``[K, *B, n_factors, 1]``."""
        score = self.score_network
        z = torch.randn(t.shape[0], *action.shape, device=action.device)
        noised = score.schedule.alpha(t) * action + score.schedule.sigma(t) * z
        error = (score.predict(context, noised, t) - z) ** 2
        return error.mean((0, -2, -1))

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_score`` and, when reduced, the denoising and regression errors
        and the information in an action."""
        loss, metrics = self.score_loss(tensordict)
        return self.reduce({"loss_score": loss}, **metrics)
