"""The forward noising process of the diffusion models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["one", "sigma2", "alpha_over_sigma"]


@dataclass(frozen=True)
class VPNoiseSchedule:
    r"""Variance-preserving SDE (Song et al. 2021, arXiv 2011.13456) with a linear rate.

    A clean action :math:`a` at time :math:`t \in [0, 1]` becomes

    .. math:: a^t = \alpha_t a + \sigma_t z, \quad z \sim N(0, I), \quad
        \log \alpha_t = -\tfrac{t^2}{4} (\beta_1 - \beta_0) - \tfrac{t}{2} \beta_0, \quad
        \sigma_t^2 = 1 - \alpha_t^2 .

    Args:
        beta_min (float): rate :math:`\beta_0` at t = 0, positive.
        beta_max (float): rate :math:`\beta_1` at t = 1, at least ``beta_min``.
        t_min (float): smallest time used in training, in (0, 1). At 0 the score is not defined.

    Raises:
        ValueError: if a rate or time is out of its range.

    Examples:
        >>> schedule = VPNoiseSchedule()
        >>> t = torch.tensor([0.001, 0.5, 1.0])
        >>> bool((schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 - 1).abs().max() < 1e-6)
        True
        >>> schedule.sigma(t).tolist() == sorted(schedule.sigma(t).tolist())
        True
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"expected 0 < beta_min <= beta_max, found {self.beta_min} and {self.beta_max}"
            )
        if not 0 < self.t_min < 1:
            raise ValueError(f"expected t_min in (0, 1), found {self.t_min}")

    def log_alpha(self, t: Tensor) -> Tensor:
        """Logarithm of the signal's scale at time ``t``, elementwise."""
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Tensor) -> Tensor:
        """Scale of the signal at time ``t``, elementwise, in (0, 1]."""
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        """Standard deviation of the noise at time ``t``, elementwise, in [0, 1)."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def log_noise_to_signal(self, t: Tensor) -> Tensor:
        r"""Return :math:`\log(\sigma_t / \alpha_t)`, the natural coordinate of the noise level."""
        return self.sigma(t).log() - self.log_alpha(t)

    def time_of(self, sigma: float) -> float:
        r"""Return the time at which the noise has standard deviation ``sigma`` in (0, 1).

        Examples:
            >>> schedule = VPNoiseSchedule()
            >>> t = schedule.time_of(0.3)
            >>> round(float(schedule.sigma(torch.tensor(t, dtype=torch.float64))), 6)
            0.3
        """
        if not 0 < sigma < 1:
            raise ValueError(f"expected sigma in (0, 1), found {sigma}")
        target = 0.5 * math.log1p(-(sigma**2))  # log alpha
        a, b = 0.25 * (self.beta_max - self.beta_min), 0.5 * self.beta_min
        if a == 0:
            return -target / b
        return (-b + math.sqrt(b**2 - 4 * a * target)) / (2 * a)


class NoiseWindow:
    r"""The range of noise times from which policy extraction draws, and how it moves.

    Large times smooth the behaviour's modes into one and show the way from anywhere; small times
    resolve them. The window :math:`[h - width, h]` slides from ``t_max`` down to ``t_final``
    over the first ``annealing`` share of the training, then stays at ``[t_min, t_final]``.
    Beyond ``t_max = 0.5`` the noised action keeps less than 0.3 of the action; what a score says
    there is mostly its own error, which an optimiser that normalises gradients follows as well.
    ``annealing = 0`` with ``t_final = t_max = 0.98`` is the fixed range of SRPO (arXiv 2310.07297).

    Args:
        t_min (float): smallest time, in (0, ``t_final``).
        t_max (float): largest time at the start, in [``t_final``, 1].
        t_final (float): largest time at the end.
        width (float): width of the sliding window, positive.
        annealing (float): share of the training in which it slides, in [0, 1].

    Raises:
        ValueError: if the times are not ordered or out of range.

    Examples:
        >>> window = NoiseWindow(0.02, 0.98, 0.15, width=0.13, annealing=0.6)
        >>> [tuple(round(x, 3) for x in window(p)) for p in (0.0, 0.3, 0.6, 1.0)]
        [(0.85, 0.98), (0.435, 0.565), (0.02, 0.15), (0.02, 0.15)]
    """

    def __init__(
        self,
        t_min: float = 0.02,
        t_max: float = 0.5,
        t_final: float = 0.15,
        width: float = 0.13,
        annealing: float = 0.6,
    ) -> None:
        if not 0 < t_min < t_final <= t_max <= 1:
            raise ValueError(
                "expected 0 < t_min < t_final <= t_max <= 1, found "
                f"t_min {t_min}, t_final {t_final}, t_max {t_max}"
            )
        if not (width > 0 and 0 <= annealing <= 1):
            raise ValueError(
                f"expected width > 0 and annealing in [0, 1], found {width} and {annealing}"
            )
        self.t_min, self.t_max, self.t_final = t_min, t_max, t_final
        self.width, self.annealing = width, annealing

    def __call__(self, progress: float) -> tuple[float, float]:
        """Return the range at a share ``progress`` in [0, 1] of the training."""
        if progress >= self.annealing:
            return self.t_min, self.t_final
        high = self.t_max + (self.t_final - self.t_max) * progress / self.annealing
        return max(self.t_min, high - self.width), high


def noise_weight(schedule: VPNoiseSchedule, t: Tensor, weighting: Weighting) -> Tensor:
    r"""Weight w(t) of a noise level: 1, :math:`\sigma_t^2` or :math:`\alpha_t / \sigma_t`."""
    if weighting == "sigma2":
        return schedule.sigma(t) ** 2
    if weighting == "alpha_over_sigma":
        return schedule.alpha(t) / schedule.sigma(t)
    return torch.ones_like(t)
