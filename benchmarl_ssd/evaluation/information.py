r"""Information from denoising errors: what a condition tells about an action, in nats.

Add noise to an action, :math:`a^t = \alpha_t a + \sigma_t z`, and let :math:`\ell = \log
\sigma_t / \alpha_t` be the noise level. With the best predictions of the noise without and with
knowledge of a prefix :math:`b`, the I-MMSE relation (Guo, Shamai and Verdu, arXiv cs/0412108)
says, in the coordinate :math:`\ell`,

.. math::
    I(a^{t_0}; b \mid s) = \int_{\ell_0}^\infty E\Bigl[
        \lVert \epsilon(a^t, t \mid s) - z \rVert^2 - \lVert \epsilon(a^t, t \mid s, b) - z \rVert^2
    \Bigr] d\ell .

The integral from the level :math:`\ell_0` on is exactly the information that the action still
shares with the prefix after noise of the relative size :math:`e^{\ell_0}`, the *resolution*. Down
to zero it would be :math:`I(a; b | s)`, which is infinite where one action determines the other.
Summed over agents, :math:`b = a_{<i}`, it is the total correlation of the team's actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarl_ssd.modules import NoisePredictor, VPNoiseSchedule

__all__ = ["NoiseLevels", "Pair", "conditional_information", "prefix_pair"]

Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From noised actions ``[F, K, M, d]`` and times ``[F, K, M, 1]`` to the two predictions."""


class NoiseLevels:
    r"""Draws noise levels :math:`\ell = \log \sigma/\alpha`, more of them where more is at stake.

    The density is piecewise constant over equal bins of :math:`\ell`; draws are stratified.

    Args:
        resolution: smallest relative noise :math:`\sigma/\alpha`, where the scaled actions lie in
            [-1, 1]; above 0.006, the smallest that a schedule knows, and below ``coarsest``.
        coarsest: largest relative noise. What lies beyond is below ``1 / (2 coarsest^2)`` nats per
            action entry.
        density: how likely each bin is, up to a factor, ``[bins]``, positive; uniform by default.

    Raises:
        ValueError: if the two are not in their order, or ``density`` is not positive.

    Example:
        >>> levels, weights = NoiseLevels(0.05, 20.0).draw(64, 10)
        >>> tuple(levels.shape), round(weights.sum(0).mean().item(), 4)  # the length, log(20 / .05)
        ((64, 10), 5.9915)
    """

    def __init__(
        self, resolution: float = 0.05, coarsest: float = 20.0, density: Tensor | None = None
    ) -> None:
        if not 0.006 < resolution < coarsest <= 140:
            raise ValueError(
                "expected 0.006 < resolution < coarsest <= 140, found "
                f"resolution {resolution} and coarsest {coarsest}"
            )
        density = torch.ones(1) if density is None else density
        if not bool((density > 0).all()):
            raise ValueError(f"expected a positive density, found {density.tolist()}")
        self.resolution, self.coarsest = resolution, coarsest
        self.edges = torch.linspace(math.log(resolution), math.log(coarsest), len(density) + 1)
        mass = density.double() / density.double().sum()
        self._cumulative = torch.cat([mass.new_zeros(1), mass.cumsum(0)]).float()
        self._cumulative[-1] = 1.0
        self._density = (mass.float() / self.edges.diff()).clamp_min(1e-12)

    def draw(
        self, count: int, rows: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw levels and the weights that turn a sum over them into an integral.

        Args:
            count: levels per row, K.
            rows: number of rows M.
            generator: source of randomness, torch's global one by default.

        Returns:
            Levels and weights, ``[K, M]``.
        """
        strata = torch.arange(count).unsqueeze(1) + torch.rand(count, rows, generator=generator)
        uniform = strata / count
        last = len(self._density) - 1
        bins = (torch.searchsorted(self._cumulative, uniform, right=True) - 1).clamp(0, last)
        inside = (uniform - self._cumulative[bins]) / self._cumulative.diff()[bins]
        levels = self.edges[bins] + inside.clamp(0, 1) * self.edges.diff()[bins]
        return levels, 1.0 / (count * self._density[bins])

    def adapted(self, levels: Tensor, scale: Tensor, bins: int = 24) -> NoiseLevels:
        """Give levels drawn in proportion to a quantity's size, the best for estimating its sum.

        Args:
            levels: where the quantity was measured, any shape.
            scale: its squares there, same shape.
            bins: number of bins.
        """
        edges = torch.linspace(self.edges[0].item(), self.edges[-1].item(), bins + 1)
        where = (torch.bucketize(levels.flatten(), edges) - 1).clamp(0, bins - 1)
        total = torch.zeros(bins).index_add_(0, where, scale.flatten())
        count = torch.zeros(bins).index_add_(0, where, torch.ones(where.shape))
        size = (total / count.clamp_min(1)).sqrt()
        # a part of the draws goes everywhere: a size of zero may be an accident of the pilot
        return NoiseLevels(self.resolution, self.coarsest, size + 0.15 * size.mean() + 1e-6)


def time_at(schedule: VPNoiseSchedule, level: Tensor) -> Tensor:
    r"""Return the times at which :math:`\log \sigma_t / \alpha_t` has the given values.

    Args:
        schedule: the noising process.
        level: noise levels, any shape.

    Example:
        >>> schedule = VPNoiseSchedule()
        >>> t = time_at(schedule, torch.tensor([-3.0, 2.0]))
        >>> schedule.log_noise_to_signal(t).round(decimals=3).tolist()
        [-3.0, 2.0]
    """
    # log alpha = -log(1 + e^(2 level)) / 2 is the schedule's quadratic in t: solve it without
    # subtracting nearly equal numbers
    target = 0.5 * torch.nn.functional.softplus(2 * level.double())
    a, b = 0.25 * (schedule.beta_max - schedule.beta_min), 0.5 * schedule.beta_min
    return (2 * target / (b + (b * b + 4 * a * target).sqrt())).to(level.dtype)


@torch.no_grad()
def conditional_information(
    pair: Pair,
    action: Tensor,
    levels: NoiseLevels,
    schedule: VPNoiseSchedule,
    draws: int = 16,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Estimate, per action, the information that the second prediction has and the first has not.

    Both predictions see the same noise, which cancels most of the variance. In expectation the
    estimate is the information plus the first prediction's excess error minus the second's.

    Args:
        pair: the two noise predictions.
        action: clean actions in [-1, 1], ``[F, M, d]``.
        levels: the range of noise levels.
        schedule: the noising process.
        draws: noise levels per action.
        generator: source of randomness, torch's global one by default.

    Returns:
        Information of every action, ``[F, M]``; the levels, ``[K, M]``; and the squared
        differences of the two predictions there, summed over factors and entries, ``[K, M]``.
    """
    factors, rows, size = action.shape
    level, weight = levels.draw(draws, rows, generator)
    t = time_at(schedule, level).reshape(1, draws, rows, 1)
    z = torch.randn(factors, draws, rows, size, generator=generator)
    noised = schedule.alpha(t) * action.unsqueeze(1) + schedule.sigma(t) * z
    without, given = pair(noised, t.expand(factors, -1, -1, -1))
    gap = ((without - given) * (without + given - 2 * z)).sum(-1)
    return (gap * weight).sum(1), level, (without - given).square().sum((0, -1))


def prefix_pair(score: NoisePredictor, condition: Tensor, action: Tensor) -> Pair:
    r"""Pair the predictions of all agents without and with the actions of those before them.

    Args:
        score: one noise predictor per agent, such as the exact ``MixtureScore``.
        condition: what all predictions know, ``[n, M, C]``.
        action: clean joint actions in [-1, 1], ``[M, n, d]``.

    Example:
        >>> from benchmarl_ssd.modules import MixtureScore
        >>> modes = torch.tensor([[[0.8], [0.8]], [[-0.8], [-0.8]]])  # two agents that agree
        >>> generator = torch.Generator().manual_seed(0)
        >>> action = modes[torch.randint(2, (4000,), generator=generator)]
        >>> action = action + 0.05 * torch.randn(action.shape, generator=generator)
        >>> score = MixtureScore(modes, noise=0.05)
        >>> pair = prefix_pair(score, torch.zeros(2, 4000, 0), action)
        >>> nats, _, _ = conditional_information(
        ...     pair, action.transpose(0, 1), NoiseLevels(), score.schedule, generator=generator)
        >>> nats[0].mean().item(), round(nats[1].mean().item(), 1)  # nothing before, then log 2
        (0.0, 0.7)
    """
    agents, size = action.shape[1:]
    before = torch.ones(agents, agents).tril(-1).repeat_interleave(size, -1).unsqueeze(1)
    prefix = action.flatten(1)
    contexts = [score.encode(condition, prefix, mask) for mask in (before * 0, before)]

    def predict(noised: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        without, given = (score.denoise(context, noised, t) for context in contexts)
        return without, given

    return predict
