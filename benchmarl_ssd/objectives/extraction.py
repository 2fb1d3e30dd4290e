"""How far the policy extraction trusts the critic, and at which noise it looks."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarl_ssd.modules.noise import NoiseWindow
from benchmarl_ssd.objectives.common import is_recorded
from benchmarl_ssd.objectives.stages import StagesMixin

# Temperature at one nat of information and Gaussian rewards: of one convention, and of one chosen
# among several, where a critic that is trusted more drives agents off the convention they share.
_TRUST, _TRUST_AMONG_CONVENTIONS = 4.0, 1.0
# Bounds: rewards more one-sided than this raise the temperature no further, less information than
# this neither, and this is as high as it gets.
_LEAST_DOWNSIDE, _LEAST_INFORMATION, _MOST = 0.2, 0.01, 100.0
# Share of a new estimate of the information in the running average.
_RATE = 0.1


class ExtractionMixin(StagesMixin):
    """Temperature and noise levels of an extraction as it goes on; meant to be inherited from.

    The temperature is given or from the data.
    """

    information: Tensor

    def _set_up_extraction(
        self,
        beta: float | None,
        beta_warmup: float,
        downside: float,
        window: NoiseWindow,
        device: torch.device,
    ) -> None:
        if not 0 <= beta_warmup <= 1:
            raise ValueError(f"expected beta_warmup in [0, 1], found {beta_warmup}")
        for name, found in (("beta", beta or 0), ("downside", downside)):
            if found < 0:
                raise ValueError(f"expected {name} of at least 0, found {found}")
        self.beta, self.beta_warmup, self.downside = beta, beta_warmup, downside
        self.window = window
        self.register_buffer("information", torch.tensor(float("nan"), device=device))
        # What the host says of a call that is replayed.
        self.register_buffer("_of_call", torch.zeros(3, device=device), persistent=False)

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
        information = max(_LEAST_INFORMATION, self.information.nan_to_num(1.0).item())
        return min(_MOST, self._unit_trust / (information * max(_LEAST_DOWNSIDE, self.downside)))

    @property
    def _unit_trust(self) -> float:
        return _TRUST if self.n_conventions == 1 else _TRUST_AMONG_CONVENTIONS

    @property
    def temperature(self) -> float:
        """What ``beta`` is now, as it warms up."""
        return (self.data_beta if self.beta is None else self.beta) * self.warmth

    @property
    def warmth(self) -> float:
        """The share of ``beta`` that the temperature has reached."""
        return min(1.0, self.progress / self.beta_warmup if self.beta_warmup else 1.0)

    def begin_call(self) -> None:
        """Tell a recording its noise levels, and the share of its temperature."""
        self._of_call.copy_(torch.tensor([self.warmth, *self.window(self.progress)]))

    @property
    def noise_levels(self) -> tuple[Tensor | float, Tensor | float]:
        """Lowest and highest time of the noise in this call."""
        if not is_recorded():
            return self.window(self.progress)
        return self._of_call[1], self._of_call[2]

    @property
    def call_temperature(self) -> Tensor | float:
        """The temperature in this call."""
        if not is_recorded():
            return self.temperature
        if self.beta is not None:
            return self.beta * self._of_call[0]
        # As `data_beta`, without looking at what a GPU holds.
        information = self.information.nan_to_num(1.0).clamp_min(_LEAST_INFORMATION)
        spread = information * max(_LEAST_DOWNSIDE, self.downside)
        return (self._unit_trust / spread).clamp_max(_MOST) * self._of_call[0]
