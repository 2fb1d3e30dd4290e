"""rliable's statistics, made repeatable.

Agarwal, Schwarzer, Castro, Courville, Bellemare, *Deep Reinforcement Learning at the Edge of the
Statistical Precipice*, arXiv 2108.13264. Needs the extra ``report``, imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and, from two runs on, its interval.

    Args:
        value: the point estimate.
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.
    """

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bootstrap:
    """How often and from which seed it is resampled.

    Args:
        repetitions: resamples, at least 1.
        seed: of the resampling, at least 0. Every estimate starts from it anew, so that none
            depends on which others are made.
    """

    repetitions: int = 2000
    seed: int = 0


def _rliable() -> tuple[ModuleType, ModuleType]:
    try:
        from rliable import library, metrics
    except ImportError as error:
        raise ImportError(
            f"Reports need rliable, which cannot be imported ({error}): pip install "
            '"benchmarl-ssd[report]".'
        ) from error
    return library, metrics


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # rliable's bootstraps draw from numpy's global state, whatever random_state they are given.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def interquartile_mean(scores: Any, bootstrap: Bootstrap) -> Estimate:
    """Interquartile mean with a 95 % interval by the stratified bootstrap over runs.

    The mean without the lowest and the highest quarter of the values, a quarter rounded down: with
    fewer than four values it is the mean of all.

    Args:
        scores: ``[runs, datasets]``.
        bootstrap: how to resample. A single run gives no interval.

    Raises:
        ImportError: if rliable is missing.

    Example:
        >>> interquartile_mean([[0.0], [2.0], [4.0], [90.0]], Bootstrap(50)).value
        3.0
    """
    scores = np.asarray(scores, dtype=float)
    values, lows, highs = curve_means(scores[..., None], bootstrap)
    if lows is None or highs is None:
        return Estimate(values[0])
    return Estimate(values[0], lows[0], highs[0])


def curve_means(
    scores: Any, bootstrap: Bootstrap
) -> tuple[list[float], list[float] | None, list[float] | None]:
    """Interquartile means at several points in time, as in rliable's sample efficiency curves.

    Args:
        scores: ``[runs, datasets, times]``.
        bootstrap: how to resample.

    Returns:
        The means ``[times]`` and the ends of their intervals, None for a single run.

    Raises:
        ImportError: if rliable is missing.
    """
    library, metrics = _rliable()
    scores = np.asarray(scores, dtype=float)

    means = [float(metrics.aggregate_iqm(each)) for each in np.moveaxis(scores, -1, 0)]
    if len(scores) < 2:
        return means, None, None
    with _seeded(bootstrap.seed):
        _, interval = library.get_interval_estimates(
            {"": scores},
            iqm_by_time,
            reps=bootstrap.repetitions,
            confidence_interval_size=CONFIDENCE,
        )
    return means, interval[""][0].tolist(), interval[""][1].tolist()


def iqm_by_time(scores: np.ndarray) -> np.ndarray:
    """rliable's ``aggregate_iqm`` of every time at once, for the many resamples of a bootstrap.

    Args:
        scores: ``[runs, datasets, times]``.

    Returns:
        ``[times]``.
    """
    ordered = np.sort(scores.reshape(-1, scores.shape[-1]), axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(0)


def improvement(x: Any, y: Any, bootstrap: Bootstrap) -> Estimate:
    """Probability that a run of X is better than one of Y, ties by half, averaged over datasets.

    Args:
        x: scores of X, ``[runs, datasets]``.
        y: scores of Y, ``[runs, datasets]``, on the same datasets.
        bootstrap: how to resample. A single run of either gives no interval.

    Raises:
        ImportError: if rliable is missing.

    Example:
        >>> improvement([[2.0], [3.0]], [[1.0], [2.0]], Bootstrap(50)).value
        0.875
    """
    library, metrics = _rliable()
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if min(len(x), len(y)) < 2:
        return Estimate(float(metrics.probability_of_improvement(x, y)))
    with _seeded(bootstrap.seed):
        _, interval = library.get_interval_estimates(
            {"": (x, y)},
            share_of_wins,
            reps=bootstrap.repetitions,
            confidence_interval_size=CONFIDENCE,
        )
    low, high = interval[""].flatten().tolist()
    return Estimate(float(metrics.probability_of_improvement(x, y)), low, high)


def share_of_wins(x: np.ndarray, y: np.ndarray) -> float:
    """rliable's ``probability_of_improvement`` without a test's p-values, for many resamples.

    Args:
        x: scores of X, ``[runs, datasets]``.
        y: scores of Y, ``[runs, datasets]``.
    """
    return float(np.sign(x[:, None] - y[None]).mean() / 2 + 0.5)


def profiles(
    scores: Mapping[str, Any], thresholds: Sequence[float], bootstrap: Bootstrap
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Performance profiles: the share of runs whose score exceeds each threshold.

    Args:
        scores: ``[runs, datasets]`` by algorithm.
        thresholds: of the score.
        bootstrap: how to resample.

    Returns:
        By algorithm the shares ``[thresholds]`` and their interval ``[2, thresholds]``, None for a
        single run.

    Raises:
        ImportError: if rliable is missing.

    Example:
        >>> shares, interval = profiles({"a": [[1.0], [3.0]]}, [0, 2, 4], Bootstrap(50))["a"]
        >>> shares.tolist()
        [1.0, 0.5, 0.0]
    """
    library, _ = _rliable()
    taus = np.asarray(thresholds, dtype=float)
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    for name, given in scores.items():
        values = np.asarray(given, dtype=float)
        many = len(values) > 1
        with _seeded(bootstrap.seed):
            point, interval = library.create_performance_profile(
                {name: values},
                taus,
                reps=bootstrap.repetitions if many else 1,
                confidence_interval_size=CONFIDENCE,
            )
        found[name] = (point[name], interval[name] if many else None)
    return found
