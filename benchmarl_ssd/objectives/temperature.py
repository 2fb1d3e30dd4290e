"""How far the policy extraction trusts the critic."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarl_ssd.objectives.stages import StagesMixin

# Temperature at one nat of information and Gaussian rewards: of one convention, and of one chosen
# among several, where a critic that is trusted more drives agents off the convention they share.
_TRUST, _TRUST_AMONG_CONVENTIONS = 4.0, 1.0
# Bounds: rewards more one-sided than this raise the temperature no further, less information than
# this neither, and this is as high as it gets.
_LEAST_DOWNSIDE, _LEAST_INFORMATION, _MOST = 0.2, 0.01, 100.0
# Share of a new estimate of the information in the running average.
_RATE = 0.1


class TemperatureMixin(StagesMixin):
    """The temperature of an extraction, given or from the data; meant to be inherited from."""

    information: Tensor

    def _set_up_temperature(
        self, beta: float | None, beta_warmup: float, downside: float, device: torch.device
    ) -> None:
        if not 0 <= beta_warmup <= 1:
            raise ValueError(f"expected beta_warmup in [0, 1], found {beta_warmup}")
        for name, found in (("beta", beta or 0), ("downside", downside)):
            if found < 0:
                raise ValueError(f"expected {name} of at least 0, found {found}")
        self.beta, self.beta_warmup, self.downside = beta, beta_warmup, downside
        self.register_buffer("information", torch.tensor(float("nan"), device=device))

    def _inform(self, found: Tensor) -> None:
        """Take an estimate of the information into the running average."""
        start = self.information.isnan()
        self.information.copy_(torch.where(start, found, self.information.lerp(found, _RATE)))

    @property
    def data_beta(self) -> float:
        r"""The temperature that the data suggest, at most 100.

        It is :math:`4 / (h d)`, and :math:`1 / (h d)` where there are several conventions.

        :math:`h` (the buffer ``information``) is how much the behaviour tells of an action beyond
        its being in [-1, 1]: the difference of entropies between the uniform distribution and a
        Gaussian of scale s, :math:`[\log 2 - \log(s \sqrt{2 \pi e})]_+`, in nats per action entry,
        with s from the denoising error at a small noise level. A behaviour that prefers nothing has
        nothing to be held to, and covers what the critic needs; of a narrow one the critic knows
        the surroundings only.

        :math:`d` is the ``downside`` of the rewards, at least 0.2: where agents that leave the data
        have little to lose, as with rare good rewards, a critic may be followed further than where
        a reward can fall as far as it can rise. Dividing the critic by its mean absolute value, as
        TD3+BC does (arXiv 2106.06860), has that effect for rewards that are never negative; here a
        constant added to the rewards changes nothing. Both were chosen on one seed of five
        particle tasks' data, and of two apples.
        """
        trust = _TRUST if self.n_conventions == 1 else _TRUST_AMONG_CONVENTIONS
        information = max(_LEAST_INFORMATION, self.information.nan_to_num(1.0).item())
        return min(_MOST, trust / (information * max(_LEAST_DOWNSIDE, self.downside)))

    @property
    def temperature(self) -> float:
        """What ``beta`` is now, as it warms up."""
        beta = self.data_beta if self.beta is None else self.beta
        return beta * min(1.0, self.progress / self.beta_warmup if self.beta_warmup else 1.0)
