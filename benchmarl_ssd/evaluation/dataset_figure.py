"""A picture of a dataset: returns, lengths, actions and where the observations lie.

Needs the extra ``plot`` (matplotlib), imported only when a picture is made.
"""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarl_ssd.data.describing import Description
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.files import expect_nothing
from benchmarl_ssd.evaluation.figures import DATA_COLOUR, INK, PALETTE, need_matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_dataset(found: Description, path: str | Path | None = None) -> Figure:
    """Draw a dataset's returns, lengths, actions and coverage.

    Args:
        found: what :func:`~benchmarl_ssd.data.describing.describe` measured.
        path: the file to write, its suffix the format; nothing may be there. None writes nothing.

    Returns:
        The matplotlib figure.

    Raises:
        DatasetError: if something is at ``path``, or it cannot be written.
        ValueError: if the suffix is no format of matplotlib's.
        ImportError: if matplotlib is missing.

    Example:
        >>> from benchmarl_ssd.data.describing import describe
        >>> from benchmarl_ssd.data.examples import write_example
        >>> [axes.get_title() for axes in plot_dataset(describe(write_example())).axes[:2]]
        ['4 returns', '4 lengths']
    """
    if path is not None:
        check_target(Path(path))
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 6.0), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    _draw_returns(axes[0, 0], found)
    lengths = found.lengths["histogram"]
    _draw_histogram(axes[0, 1], lengths)
    axes[0, 1].set_title(f"{len(found.episodes):,} lengths", fontsize=10, color=INK)
    axes[0, 1].set_xlabel("steps", fontsize=8, color=INK)
    _draw_actions(axes[1, 0], found)
    _draw_coverage(axes[1, 1], found)
    for axis in axes.flat:
        axis.tick_params(labelsize=7, colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
    if path is not None:
        _save(figure, Path(path))
    return figure


def check_target(path: Path) -> None:
    """Check, before anything is computed for it, that a figure can be written.

    Args:
        path: the file to write, its suffix the format.

    Raises:
        DatasetError: if something is there, or there is no folder for it.
        ValueError: if the suffix is no format of matplotlib's.
        ImportError: if matplotlib is missing.
    """
    expect_nothing(path)
    if not path.absolute().parent.is_dir():
        raise DatasetError(f"expected a folder for {path}, found none at {path.parent}; make it")
    need_matplotlib()
    from matplotlib.backend_bases import FigureCanvasBase

    formats = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(
            f"expected a file ending in one of {', '.join(formats)}, found {path.name!r}; "
            "choose one of these, such as .png"
        )


def _draw_histogram(axis: Any, histogram: dict[str, list[float]]) -> None:
    edges, counts = np.asarray(histogram["edges"]), histogram["counts"]
    if len(counts) == 1:  # all values are one: a bar of some width stands for it
        axis.set_xticks([edges[0]])
        edges = edges[0] + np.array([-0.5, 0.5])
    axis.bar(edges[:-1], counts, np.diff(edges), align="edge", color=DATA_COLOUR, linewidth=0)
    axis.set_ylabel("episodes", fontsize=8, color=INK)


def _draw_returns(axis: Any, found: Description) -> None:
    _draw_histogram(axis, found.returns["histogram"])
    lines = {"mean": found.returns["mean"], **(found.metadata.references or {})}
    for (name, value), colour in zip(lines.items(), PALETTE, strict=False):
        if value is not None:
            axis.axvline(value, color=colour, linewidth=1.4, label=f"{name} {value:.2f}")
    axis.legend(fontsize=7, frameon=False)
    axis.set_title(f"{len(found.episodes):,} returns", fontsize=10, color=INK)
    axis.set_xlabel("return of an episode", fontsize=8, color=INK)


def _draw_actions(axis: Any, found: Description) -> None:
    labels: list[str] = []
    for (group, values), colour in zip(found.actions.items(), PALETTE * 99, strict=False):
        columns = {n: np.asarray(v, dtype=float) for n, v in values.items()}
        agents, sizes = columns["mean"].shape[0], columns["mean"][0].size
        places = len(labels) + np.arange(agents * sizes)
        low, high, mean, std = (columns[n].ravel() for n in ("min", "max", "mean", "std"))
        axis.vlines(places, low, high, color=colour, linewidth=1, alpha=0.4)
        axis.errorbar(
            places, mean, std, fmt="o", color=colour, markersize=3, linewidth=2.4, label=group
        )
        labels += [f"{agent}.{index}" for agent in range(agents) for index in range(sizes)]
    step = max(1, len(labels) // 16)
    axis.set_xticks(range(0, len(labels), step), labels[::step])
    axis.set_title("actions: mean, deviation, range", fontsize=10, color=INK)
    axis.set_xlabel("agent.action", fontsize=8, color=INK)
    if len(found.actions) > 1:
        axis.legend(fontsize=7, frameon=False)


def _draw_coverage(axis: Any, found: Description) -> None:
    coverage = found.coverage
    places = found.grid.project(found.points).numpy()
    axis.set_title(
        f"observations: {coverage['effective_cells']:.0f} effective cells of {coverage['cells']:,}",
        fontsize=10,
        color=INK,
    )
    if not places.shape[1]:
        axis.text(0.5, 0.5, "they never vary", ha="center", color=INK, transform=axis.transAxes)
        axis.set(xticks=(), yticks=())
        return
    axis.set_xlabel("first principal axis", fontsize=8, color=INK)
    if places.shape[1] == 1:
        axis.hist(places[:, 0], bins=40, range=(0, 1), color=DATA_COLOUR)
        return
    inside = np.clip(places[:, :2], 0, 1)
    counts, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=40, range=[[0, 1], [0, 1]])
    shown = np.ma.masked_equal(counts.T, 0)  # empty cells stay white
    image = axis.imshow(
        shown, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="viridis", norm="log"
    )
    colours = axis.figure.colorbar(image, ax=axis, shrink=0.8)
    colours.set_label(f"of {len(places):,} transitions", fontsize=7, color=INK)
    colours.ax.tick_params(labelsize=6, colors=INK)
    axis.set_ylabel("second principal axis", fontsize=8, color=INK)


def _save(figure: Figure, path: Path) -> None:
    drawn = io.BytesIO()
    figure.savefig(drawn, format=path.suffix.removeprefix(".") or "png")
    temporary = path.parent / f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.write_bytes(drawn.getvalue())
        os.link(temporary, path)  # unlike a rename, this never replaces what has appeared
    except FileExistsError:
        expect_nothing(path)
        raise
    except OSError as error:
        raise DatasetError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that can be written"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
