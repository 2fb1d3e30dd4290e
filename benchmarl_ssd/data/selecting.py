"""Chooses episodes of a dataset: by number, by return, by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.reading import Episodes


@dataclass(frozen=True)
class Selection:
    r"""Which episodes of a dataset to keep; what is given narrows the choice in this order.

    With E episodes, the quantiles :math:`(p, q)` keep ranks :math:`[\mathrm{round}(pE),
    \mathrm{round}(qE))` of the episodes sorted by return, the lowest first, equal ones in the
    dataset's order. So ``(0, 0.5)`` and ``(0.5, 1)`` share no episode and miss none.

    Args:
        ids: numbers of episodes, from 0; None takes all.
        quantiles: from and to, in [0, 1], by return, among the dataset's episodes.
        top: share with the highest returns, in (0, 1]; the same as quantiles ``(1 - top, 1)``.
        episodes: keep this many, > 0.
        transitions: keep whole episodes until there are at least this many transitions, > 0.
        seed: which episodes ``episodes`` and ``transitions`` keep: drawn at random with this seed,
            or None for the first ones.

    Raises:
        DatasetError: if a number is out of range, or of two options only one can be meant.

    Example:
        >>> returns = torch.tensor([3.0, 1.0, 2.0, 4.0]).double()
        >>> ones = torch.ones(4, dtype=torch.int64)
        >>> episodes = Episodes(torch.arange(4), ones, returns, ones.bool())
        >>> Selection(top=0.5).choose(episodes).tolist()
        [True, False, False, True]
        >>> Selection(quantiles=(0.0, 0.5), episodes=1).choose(episodes).tolist()
        [False, True, False, False]
    """

    ids: Sequence[int] | None = None
    quantiles: tuple[float, float] | None = None
    top: float | None = None
    episodes: int | None = None
    transitions: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.quantiles is not None:
            low, high = self.quantiles
            if not 0 <= low < high <= 1:
                raise DatasetError(
                    f"expected quantiles 0 <= from < to <= 1, found {low:g} and {high:g}; "
                    "give the lower one first"
                )
        if self.top is not None and not 0 < self.top <= 1:
            raise DatasetError(
                f"expected top in (0, 1], found {self.top:g}; 0.1 keeps the best tenth"
            )
        for first, second in (("top", "quantiles"), ("episodes", "transitions")):
            if getattr(self, first) is not None and getattr(self, second) is not None:
                raise DatasetError(
                    f"expected either {first} or {second}, found both; leave one of them out"
                )
        for name in ("episodes", "transitions"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise DatasetError(f"expected at least 1 of {name}, found {count}; give more")
        if self.seed is not None and self.episodes is None and self.transitions is None:
            raise DatasetError(
                "expected a number of episodes or transitions beside seed, found none; "
                "say how many to draw"
            )

    def choose(self, episodes: Episodes, among: torch.Tensor | None = None) -> torch.Tensor:
        """Choose.

        Args:
            episodes: the dataset's episodes, E of them.
            among: bool ``[E]``, those that can be chosen at all; None takes all. Shares of the
                returns are of these, and of the ``ids`` among them.

        Returns:
            bool ``[E]``, at least one of them True.

        Raises:
            DatasetError: if there is no such episode, or fewer than asked for.
        """
        kept = torch.ones(len(episodes), dtype=torch.bool) if among is None else among.clone()
        if self.ids is not None:
            kept &= self._by_number(len(episodes))
        if self.quantiles is not None or self.top is not None:
            low, high = self.quantiles or (1 - (self.top or 0), 1.0)
            rows = kept.nonzero().flatten()
            kept[rows] = between_quantiles(episodes.returns[rows], low, high)
        if not kept.any():
            raise DatasetError(
                f"expected at least one episode of {len(episodes)} to be selected, found none; "
                "select more"
            )
        if self.episodes is not None or self.transitions is not None:
            kept = self._count(kept, episodes.lengths)
        return kept

    def _by_number(self, total: int) -> torch.Tensor:
        chosen = torch.zeros(total, dtype=torch.bool)
        for id in self.ids or ():
            if not 0 <= id < total:
                raise DatasetError(
                    f"expected episodes from 0 to {total - 1}, found {id}; choose among these"
                )
            chosen[id] = True
        return chosen

    def _count(self, kept: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        order = kept.nonzero().flatten()
        if self.seed is not None:
            random = torch.Generator().manual_seed(self.seed)
            order = order[torch.randperm(len(order), generator=random)]
        if self.episodes is not None:
            wanted, found, what = self.episodes, len(order), "episodes"
        else:
            total = torch.cumsum(lengths[order], 0)
            found, what = int(total[-1]), "transitions"
            wanted = self.transitions or 0
            # The first episode that reaches the number is the last one kept.
            order = order[: int((total < wanted).sum()) + 1]
        if wanted > found:
            raise DatasetError(
                f"expected {wanted} {what} to select, found {found}; ask for fewer, or for all by "
                "leaving the number out"
            )
        chosen = torch.zeros_like(kept)
        chosen[order[: self.episodes]] = True
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Give what was asked for, without what was left open."""
        asked = {name: value for name, value in asdict(self).items() if value is not None}
        return asked | ({"ids": [int(id) for id in self.ids]} if self.ids is not None else {})


def between_quantiles(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Tell which values lie between two quantiles, by rank.

    Args:
        values: ``[E]``; equal ones are ranked in their order.
        low: from, in [0, 1].
        high: to, in [0, 1].

    Returns:
        bool ``[E]`` with ``round(high * E) - round(low * E)`` times True.

    Example:
        >>> between_quantiles(torch.tensor([5.0, 5.0, 1.0, 9.0]), 0.25, 0.75).tolist()
        [True, True, False, False]
    """
    ranked = torch.argsort(values, stable=True)
    chosen = torch.zeros(len(values), dtype=torch.bool)
    chosen[ranked[round(low * len(values)) : round(high * len(values))]] = True
    return chosen


def partition(
    episodes: Episodes, fractions: Sequence[float], by: str = "random", seed: int = 0
) -> list[torch.Tensor]:
    """Share a dataset's episodes out.

    Args:
        episodes: the dataset's episodes, E of them.
        fractions: each part's share of the episodes, > 0; they sum to 1 (to 1e-6).
        by: ``"random"``, ``"order"`` (the first ones to the first part) or ``"return"`` (the
            lowest returns to the first part).
        seed: of ``"random"``.

    Returns:
        bool ``[E]`` for each part; every episode is in exactly one of them.

    Raises:
        DatasetError: if the fractions do not fit, or a part would be empty.

    Example:
        >>> ones = torch.ones(4, dtype=torch.int64)
        >>> episodes = Episodes(torch.arange(4), ones, ones.double(), ones.bool())
        >>> [part.tolist() for part in partition(episodes, [0.75, 0.25], by="order")]
        [[True, True, True, False], [False, False, False, True]]
    """
    if len(fractions) < 2 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DatasetError(
            "expected at least two fractions above 0 that sum to 1, found "
            f"{', '.join(f'{fraction:g}' for fraction in fractions) or 'none'}; correct them"
        )
    count = len(episodes)
    if by == "random":
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    elif by == "order":
        order = torch.arange(count)
    elif by == "return":
        order = torch.argsort(episodes.returns, stable=True)
    else:
        raise DatasetError(f"expected by to be random, order or return, found {by!r}")
    edges = [round(count * sum(fractions[:part])) for part in range(len(fractions))] + [count]
    parts: list[torch.Tensor] = []
    for start, stop in pairwise(edges):
        if start == stop:
            raise DatasetError(
                f"expected an episode in each of {len(fractions)} parts, found none in part "
                f"{len(parts) + 1} of {count} episodes; give it a larger fraction"
            )
        part = torch.zeros(count, dtype=torch.bool)
        part[order[start:stop]] = True
        parts.append(part)
    return parts
