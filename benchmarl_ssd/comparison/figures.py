"""A report's figures: scores by dataset, and by rliable profiles, improvement, learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarl_ssd.comparison.statistics import Bootstrap, profiles
from benchmarl_ssd.comparison.suite import Suite
from benchmarl_ssd.evaluation.figures import PALETTE, need_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THRESHOLDS = 101
_COLUMNS = 3
_SMALL: dict[str, Any] = {"labelsize": "medium", "ticklabelsize": "small", "wrect": 5}
_DATA = "mean of the data"
_STYLES = ("solid", "dashed", "dotted", "dashdot")


def _axes(rows: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, list[Any]]:
    need_matplotlib("report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _panels(count: int, panel: tuple[float, float]) -> tuple[Figure, list[Any]]:
    """Axes for so many datasets, in rows."""
    columns = min(_COLUMNS, count)
    figure, axes = _axes(math.ceil(count / columns), columns, panel)
    for axis in axes[count:]:
        axis.set_visible(False)
    return figure, axes[:count]


def _algorithms(content: dict[str, Any]) -> list[str]:
    rows = (row for each in content["datasets"] for row in each["rows"])
    return list(dict.fromkeys(row["algorithm"] for row in rows))


def _colours(names: Iterable[str]) -> dict[str, Any]:
    return {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}


def _styles(names: Iterable[str]) -> dict[str, str]:
    # Where colours come round again, lines differ.
    return {
        name: _STYLES[number // len(PALETTE) % len(_STYLES)] for number, name in enumerate(names)
    }


def plot_scores(content: dict[str, Any]) -> Figure | None:
    """Draw the score of every algorithm, a panel per dataset.

    Interquartile means and their intervals, as the tables have them; normalised where the data have
    references, else returns. Algorithms need not have run on the same datasets.

    Args:
        content: what :func:`~benchmarl_ssd.comparison.content.describe` computed.

    Returns:
        The figure; None with fewer than two algorithms.

    Raises:
        ImportError: if matplotlib is missing.
    """
    panels, names = content["datasets"], _algorithms(content)
    if len(names) < 2:
        return None
    figure, axes = _panels(len(panels), (3.4, 1.0 + 0.17 * len(names)))
    colours = _colours(names)
    places = {name: place for place, name in enumerate(reversed(names))}  # the first on top
    for axis, dataset in zip(axes, panels, strict=True):
        scored = all(row["normalised"] for row in dataset["rows"])
        unit = "normalised" if scored else "return"
        for row in dataset["rows"]:
            found, place = row[unit], places[row["algorithm"]]
            colour = colours[row["algorithm"]]
            if found["low"] is not None:
                axis.plot(
                    [found["low"], found["high"]],
                    [place, place],
                    color=colour,
                    linewidth=4,
                    solid_capstyle="butt",  # the line's ends are the interval's
                )
            axis.plot(found["value"], place, marker="|", markersize=9, color="black")
            axis.plot(found["value"], place, marker="o", markersize=3.5, color=colour)
        if dataset["data"]:
            mean = dataset["data"]["mean"][unit]
            axis.axvline(mean, color="black", linestyle="dotted", linewidth=0.8)
        axis.set_yticks(list(places.values()), list(places), fontsize="x-small")
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.tick_params(axis="x", labelsize="x-small")
        axis.grid(axis="x", linewidth=0.3)
        axis.set_title(f"{dataset['task']}, {dataset['dataset']}", fontsize="small")
        axis.set_xlabel(f"{unit}; dotted: mean of the data", fontsize="x-small")
    return figure


def plot_profiles(suite: Suite, bootstrap: Bootstrap) -> Figure | None:
    """Draw, for each algorithm, the share of runs that exceed a score, over scores.

    Args:
        suite: runs on the same datasets.
        bootstrap: how the shaded 95 % intervals are resampled.

    Returns:
        The figure; None where scores are of no common scale: several datasets, none normalised.

    Raises:
        ImportError: if rliable or matplotlib is missing.
    """
    scores = suite.scores or (suite.returns if len(suite.groups) == 1 else {})
    if not scores:
        return None
    figure, (axis,) = _axes(1, 1, (6.0, 3.8))
    from rliable import plot_utils

    values = np.concatenate([each.flatten() for each in scores.values()])
    margin = 0.05 * max(float(np.ptp(values)), 1e-6)
    thresholds = np.linspace(values.min() - margin, values.max() + margin, _THRESHOLDS)
    found = profiles(scores, thresholds.tolist(), bootstrap)
    name = "normalised score" if suite.scores else "return"
    plot_utils.plot_performance_profiles(
        {name: shares for name, (shares, _) in found.items()},
        thresholds,
        {name: interval for name, (_, interval) in found.items() if interval is not None},
        ax=axis,
        colors=_colours(found),
        linestyles=_styles(found),
        xlabel=rf"{name} $\tau$",
        ylabel=r"share of runs above $\tau$",
        legend=True,
        legendsize="small",
        **_SMALL,
    )
    return figure


def plot_improvement(content: dict[str, Any]) -> Figure | None:
    """Draw the probability that one algorithm's run beats another's, by pairs.

    Args:
        content: what :func:`~benchmarl_ssd.comparison.content.describe` computed.

    Returns:
        The figure; None with fewer than two algorithms.

    Raises:
        ImportError: if rliable or matplotlib is missing.
    """
    pairs = content["improvement"][::-1]  # the first on top
    if not pairs:
        return None
    figure, (axis,) = _axes(1, 1, (6.0, 1.2 + 0.3 * len(pairs)))
    from rliable import plot_utils

    keys = [f"{pair['x']}\n{pair['y']}" for pair in pairs]
    ends = [(pair["low"], pair["high"]) for pair in pairs]
    plot_utils.plot_probability_of_improvement(
        {key: pair["value"] for key, pair in zip(keys, pairs, strict=True)},
        {
            key: (pair["value"],) * 2 if low is None else (low, high)
            for key, pair, (low, high) in zip(keys, pairs, ends, strict=True)
        },
        pair_separator="\n",
        ax=axis,
        colors=[PALETTE[number % len(PALETTE)] for number in range(len(pairs))],
        xticks=[0.0, 0.25, 0.5, 0.75, 1.0],
        xlabel="P(X > Y)",
        left_ylabel="X",
        right_ylabel="Y",
        **_SMALL,
    )
    axis.axvline(0.5, color="black", linestyle="dashed", linewidth=0.8)
    return figure


def plot_curves(content: dict[str, Any]) -> Figure | None:
    """Draw returns during training, a panel per dataset.

    Args:
        content: what :func:`~benchmarl_ssd.comparison.content.describe` computed.

    Returns:
        The figure; None where no run has a curve.

    Raises:
        ImportError: if rliable or matplotlib is missing.
    """
    panels = [each for each in content["datasets"] if any(row["curve"] for row in each["rows"])]
    if not panels:
        return None
    figure, axes = _panels(len(panels), (3.8, 3.0))
    from rliable import plot_utils

    colours, styles = _colours(_algorithms(content)), _styles(_algorithms(content))
    for axis, dataset in zip(axes, panels, strict=True):
        for row in dataset["rows"]:
            curve = row["curve"]
            if curve is None:
                continue
            points = np.array(curve["return"])
            low, high = curve["low"], curve["high"]
            ends = [points, points] if low is None else [low, high]
            plot_utils.plot_sample_efficiency_curve(
                curve["steps"],
                {row["algorithm"]: points},
                {row["algorithm"]: np.array(ends)},
                colors=colours,
                ax=axis,
                xlabel="optimiser steps",
                ylabel="return",
                marker=".",
                linewidth=1.5,
                **_SMALL,
            )
            axis.lines[-1].set_linestyle(styles[row["algorithm"]])
        if dataset["data"]:
            axis.axhline(
                dataset["data"]["mean"]["return"],
                color="black",
                linestyle="dotted",
                linewidth=0.8,
                label=_DATA,
            )
        axis.set_title(f"{dataset['task']}\n{dataset['dataset']}", fontsize="small")
    # One legend for all panels, beside them; its lines are long, so that dashes show.
    shown: dict[str, Any] = {}
    for axis in axes:
        shown |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    labels = [name for name in (*colours, _DATA) if name in shown]
    figure.set_figwidth(figure.get_figwidth() + 1.5)
    figure.legend(
        [shown[name] for name in labels],
        labels,
        loc="outside right upper",
        fontsize="x-small",
        handlelength=3.5,
    )
    return figure
