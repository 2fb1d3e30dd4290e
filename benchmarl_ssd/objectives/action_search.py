"""Search for actions of high value by the cross-entropy method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ActionSearch:
    r"""Cross-entropy search in [-1, 1], of every agent and state at once (OMAR, arXiv 2111.11188).

    Candidates are drawn from :math:`\mathcal N(\mu, \sigma^2)`, clipped to the bounds and valued;
    then :math:`\mu, \sigma` are fitted to the good ones, and so on. Which are good is decided

    * with ``elites``, as in OMAR's code for MuJoCo: the so many best of the candidates and the
      last elites; :math:`\mu, \sigma` are their mean and deviation;
    * without, as in its code for particle tasks: :math:`\mu` is the mean weighted by
      :math:`\exp(Q / T)`, :math:`\sigma^2` the mean squared distance of all candidates from it.

    The result is the best action of all rounds, the one to start from included; OMAR's code for
    particle tasks looks at the last round only. With the 30 values that three rounds of ten spend,
    the distance to the optimum of a quadratic of two action entries is 0.13 on average with the
    defaults, 0.20 with the weighted mean from a deviation of 2, as published for particle tasks.

    Args:
        iterations (int): rounds, at least 1.
        samples (int): candidates in each round, at least 2.
        elites (int, optional): from 2 to ``samples``; ``None``: weighted by :math:`\exp(Q / T)`.
        mean (float): :math:`\mu` of the first round, in [-1, 1].
        std (float): :math:`\sigma` of the first round, above 0.
        temperature (float): T in units of the scaled value, above 0.

    Raises:
        ValueError: if an option is out of its range.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> start = torch.zeros(4, 2, 1)  # four states, two agents, one entry
        >>> value = lambda action: -((action - 0.5) ** 2).sum(-1)
        >>> action, best = ActionSearch(8, 32, elites=8)(value, start, value(start))
        >>> bool(((action - 0.5).abs() < 0.05).all())
        True
    """

    iterations: int = 3
    samples: int = 10
    elites: int | None = 5
    mean: float = 0.0
    std: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("samples", 2)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"expected {name} of at least {least}, found {getattr(self, name)}"
                )
        if self.elites is not None and not 2 <= self.elites <= self.samples:
            raise ValueError(
                f"expected elites from 2 to samples ({self.samples}) or null, found {self.elites}"
            )
        if not -1 <= self.mean <= 1:
            raise ValueError(f"expected mean in [-1, 1], found {self.mean}")
        for name in ("std", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, found {getattr(self, name)}")

    @torch.no_grad()
    def __call__(
        self, value_of: Callable[[Tensor], Tensor], start: Tensor, start_value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Find the best action of every agent in every state.

        Args:
            value_of (callable): from candidates ``[K, *B, n, d]`` to their values ``[K, *B, n]``.
            start (Tensor): actions known already, ``[*B, n, d]``.
            start_value (Tensor): their values, ``[*B, n]``.

        Returns:
            The actions ``[*B, n, d]`` and their values ``[*B, n]``, never below ``start_value``.
        """
        mean, std = torch.full_like(start, self.mean), torch.full_like(start, self.std)
        best, best_value = start, start_value
        kept, kept_value = start.unsqueeze(0)[:0], start_value.unsqueeze(0)[:0]
        for _ in range(self.iterations):
            noise = torch.randn(self.samples, *start.shape, dtype=start.dtype, device=start.device)
            candidates = (mean + std * noise).clamp(-1, 1)
            value = value_of(candidates)
            found_value, index = value.max(0)
            found = _pick(candidates, index.unsqueeze(0))[0]
            better = found_value > best_value
            best = torch.where(better.unsqueeze(-1), found, best)
            best_value = torch.where(better, found_value, best_value)
            if self.elites is None:
                weight = (value / self.temperature).softmax(0).unsqueeze(-1)
                mean = (weight * candidates).sum(0)
                std = (candidates - mean).square().mean(0).sqrt()
                continue
            candidates = torch.cat([candidates, kept])
            kept_value, order = torch.cat([value, kept_value]).topk(self.elites, 0)
            kept = _pick(candidates, order)
            mean, std = kept.mean(0), kept.std(0)
        return best, best_value


def _pick(candidates: Tensor, index: Tensor) -> Tensor:
    # candidates [K, *B, n, d] at index [J, *B, n]
    wide = index.unsqueeze(-1).expand(*index.shape, candidates.shape[-1])
    return candidates.gather(0, wide)
