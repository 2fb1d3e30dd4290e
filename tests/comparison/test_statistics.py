"""rliable's numbers against those worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarl_ssd.comparison.statistics import (
    Bootstrap,
    Estimate,
    curve_means,
    improvement,
    interquartile_mean,
    iqm_by_time,
    profiles,
    share_of_wins,
)

FEW = Bootstrap(repetitions=50)


@pytest.mark.parametrize(
    ("scores", "mean"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 6.0], 3.0),  # too few to leave any out
        ([-100.0, 1.0, 2.0, 900.0], 1.5),
        ([0.0, 1.0, 2.0, 3.0, 100.0], 2.0),  # a quarter of five, rounded down, is one
        ([0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 50.0, 60.0], 2.5),
    ],
)
def test_interquartile_mean(scores, mean):
    column = [[score] for score in scores]
    assert interquartile_mean(column, FEW).value == pytest.approx(mean)


def test_over_datasets_all_scores_count_together():
    scores = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 100.0]]  # without 0, 1 and 6, 100
    assert interquartile_mean(scores, FEW).value == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_the_bootstrap_stays_within_a_dataset():
    # Datasets far apart, runs alike: nothing is uncertain, unless strata were mixed.
    scores = [[0.0, 1000.0]] * 5
    assert interquartile_mean(scores, FEW) == Estimate(500.0, 500.0, 500.0)


def test_one_run_has_no_interval():
    assert interquartile_mean([[3.0]], FEW) == Estimate(3.0)
    assert improvement([[3.0]], [[1.0], [2.0]], FEW) == Estimate(1.0)
    assert profiles({"a": [[3.0]]}, [0.0], FEW)["a"][1] is None
    assert curve_means([[[1.0, 2.0]]], FEW) == ([1.0, 2.0], None, None)


def test_interval_of_two_runs():
    # Means of two draws are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    assert interquartile_mean([[0.0], [1.0]], Bootstrap(500)) == Estimate(0.5, 0.0, 1.0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=8), st.integers(0, 2**32 - 1))
def test_the_same_seed_gives_the_same_interval(scores, seed):
    column = [[score] for score in scores]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = interquartile_mean(column, Bootstrap(20, seed))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert interquartile_mean(column, Bootstrap(20, seed)) == first
    assert min(scores) - 1e-6 <= first.low <= first.high <= max(scores) + 1e-6


def test_another_seed_resamples_anew():
    column = np.random.default_rng(0).normal(size=(10, 1))
    found = {interquartile_mean(column, Bootstrap(50, seed)) for seed in range(5)}
    assert len({each.value for each in found}) == 1
    assert len(found) > 1


def test_probability_of_improvement():
    x, y = [[1.0], [3.0], [5.0]], [[2.0], [3.0]]
    # Pairs: 1 loses twice, 3 wins once and ties once, 5 wins twice.
    assert improvement(x, y, FEW).value == pytest.approx(3.5 / 6)
    assert improvement(y, x, FEW).value == pytest.approx(2.5 / 6)
    two = improvement([[1.0, 9.0], [1.0, 9.0]], [[2.0, 1.0], [2.0, 1.0]], FEW)
    assert two == Estimate(0.5, 0.5, 0.5)  # always worse on one dataset, better on the other


def test_profile():
    shares, interval = profiles({"a": [[1.0, 2.0], [3.0, 4.0]]}, [0.0, 1.0, 2.5, 4.0], FEW)["a"]
    assert shares.tolist() == [1.0, 0.75, 0.5, 0.0]
    assert interval.shape == (2, 4)
    assert (interval[0] <= shares).all()
    assert (shares <= interval[1]).all()


def test_curves_take_each_time_by_itself():
    scores = [[[0.0, 10.0]], [[1.0, 20.0]], [[2.0, 30.0]], [[50.0, -90.0]]]
    means, low, high = curve_means(scores, FEW)
    assert means == [1.5, 15.0]
    assert all(a <= m <= b for a, m, b in zip(low, means, high, strict=True))


arrays = st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))


@settings(max_examples=50, deadline=None)
@given(arrays, st.integers(1, 6), st.booleans())
def test_what_is_resampled_is_rliables_own(shape, others, ties):
    metrics = pytest.importorskip("rliable.metrics")
    runs, datasets, seed = shape
    rng = np.random.default_rng(seed)

    def draw(*size):
        return rng.integers(0, 3, size).astype(float) if ties else rng.normal(size=size)

    curves = draw(runs, datasets, 3)
    means = [metrics.aggregate_iqm(each) for each in np.moveaxis(curves, -1, 0)]
    assert iqm_by_time(curves) == pytest.approx(means)
    x, y = draw(runs, datasets), draw(others, datasets)
    expected = metrics.probability_of_improvement(x, y)
    assert share_of_wins(x, y) == pytest.approx(expected)
