"""Pictures of what a team does: joint actions, paths, and short films.

Needs the extra ``plot`` (matplotlib, pillow); both are imported only when a picture is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#333333"
FAINT = "#bbbbbb"
DATA_COLOUR = "#555555"
# Okabe and Ito's palette: distinguishable with any common form of colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LEFT_COLOUR, RIGHT_COLOUR = "#0072B2", "#D55E00"


def need_matplotlib(extra: str = "plot") -> None:
    """Say what to install where matplotlib is missing, before anything of it is imported."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Figures need matplotlib, which is not installed: pip install "
            f'"benchmarl-ssd[{extra}]".'
        ) from error


def _new_figure(rows: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, Any]:
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot: no display, no global state, nothing to close.
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)


def _array(values: Any, shape: str) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
    if array.ndim != len(shape.split(",")):
        raise ValueError(f"Expected an array [{shape}], found shape {list(array.shape)}.")
    return array


def _finish(figure: Figure, path: str | Path | None) -> Figure:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, bbox_inches="tight")  # aspect ratios leave margins the layout misses
    return figure


def plot_joint_actions(
    actions: Mapping[str, Any],
    modes: Any,
    tolerance: float,
    path: str | Path | None = None,
    agents: tuple[int, int] = (0, 1),
) -> Figure:
    """Draw the joint actions of two agents, one panel per source, against the played modes.

    A square marks what is paid: both agents within ``tolerance`` of one joint mode.

    Args:
        actions: joint actions ``[N, n]`` in [-1, 1] by the name of their source, e.g. the data and
            each method; panels follow the mapping's order. For a deterministic method pass one
            joint action per training seed.
        modes: played joint modes ``[K, n]``.
        tolerance: half the side of the squares, in action units.
        path: where to save the picture (the suffix gives the format); ``None`` saves nothing.
        agents: which two agents are the axes.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: an array has the wrong number of dimensions.
        ImportError: matplotlib is missing.

    >>> figure = plot_joint_actions({"data": [[0.8, 0.8]]}, [[0.8, 0.8], [-0.8, -0.8]], 0.25)
    >>> figure.axes[0].get_xlabel()
    'action of agent 1'
    """
    played = _array(modes, "K, n")
    figure, axes = _new_figure(1, len(actions), (2.5, 3.1))
    from matplotlib.patches import Rectangle

    for panel, (axis, (name, joint)) in enumerate(zip(axes[0], actions.items(), strict=True)):
        points = _array(joint, "N, n")
        near = np.abs(points[:, None] - played[None]) <= tolerance
        paid = near.all(-1).any(-1)
        pairs = points[:, list(agents)]
        for mode in np.unique(played[:, list(agents)], axis=0):
            axis.add_patch(
                Rectangle(
                    tuple(mode - tolerance),
                    2 * tolerance,
                    2 * tolerance,
                    facecolor="#e8f4ef",
                    edgecolor="#009E73",
                    linewidth=1.0,
                    zorder=1,
                )
            )
        many = len(points) > 100
        style: dict[str, Any] = {"s": 5 if many else 26, "linewidths": 0 if many else 0.6}
        for chosen, colour, marker in ((paid, PALETTE[0], "o"), (~paid, PALETTE[1], "X")):
            # Drawing a thinned sample keeps files small; the title counts all of them.
            shown = pairs[chosen][:2000]
            axis.scatter(
                shown[:, 0], shown[:, 1], c=colour, marker=marker, edgecolors="white", zorder=3,
                alpha=0.35 if many else 0.9, **style,
            )  # fmt: skip
        axis.set_title(f"{name}\n{paid.mean():.0%} played together", fontsize=9, color=INK)
        axis.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal")
        axis.set_xlabel(f"action of agent {agents[0] + 1}", fontsize=8, color=INK)
        if panel == 0:
            axis.set_ylabel(f"action of agent {agents[1] + 1}", fontsize=8, color=INK)
        axis.set(xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        _tidy(axis)
    return _finish(figure, path)


def plot_paths(
    paths: Mapping[str, Any],
    apple_distance: float = 1.0,
    apple_radius: float = 0.25,
    path: str | Path | None = None,
    episodes: int = 3,
) -> Figure:
    """Draw how teams walked to the apples: a column per source, a row per episode.

    Open dots are starts, filled ones ends; an agent's colour says on which side it ended; the apple
    at which the whole team stands is green.

    Args:
        paths: positions ``[E, T, n, 2]`` of E episodes by the name of their source, e.g. the data
            and each method; columns follow the mapping's order. All E count for the success rate
            in the title (all agents at one apple at the last step).
        apple_distance: of each apple from the middle.
        apple_radius: within which an agent stands at an apple.
        path: where to save the picture (the suffix gives the format); ``None`` saves nothing.
        episodes: how many episodes to draw, the first ones.

    Returns:
        The matplotlib figure.

    Raises:
        ValueError: an array has the wrong number of dimensions.
        ImportError: matplotlib is missing.

    >>> figure = plot_paths({"data": np.zeros((4, 25, 2, 2))}, episodes=2)
    >>> figure.axes[0].get_title()
    'data\\n0% of 4 teams meet'
    """
    figure, axes = _new_figure(episodes, len(paths), (2.5, 1.25))
    for column, (name, positions) in enumerate(paths.items()):
        track = _array(positions, "E, T, n, 2")
        apples = np.array([[-apple_distance, 0.0], [apple_distance, 0.0]])
        distance = np.linalg.norm(track[:, -1, :, None] - apples, axis=-1)
        met = (distance <= apple_radius).all(1).any(-1)
        axes[0, column].set_title(
            f"{name}\n{met.mean():.0%} of {len(track)} teams meet", fontsize=9, color=INK
        )
        for row in range(episodes):
            axis = axes[row, column]
            if row < len(track):
                _draw_episode(axis, track[row], apples, apple_radius, bool(met[row]))
            border = apple_distance + apple_radius + 0.15
            height = max(0.6, apple_radius + 0.15)
            axis.set(xticks=(-apple_distance, 0, apple_distance), yticks=(-0.4, 0, 0.4))
            axis.set(xlim=(-border, border), ylim=(-height, height), aspect="equal")
            _tidy(axis)
        axes[-1, column].set_xlabel("x position", fontsize=8, color=INK)
    for row in range(episodes):
        axes[row, 0].set_ylabel(f"episode {row + 1}\ny position", fontsize=8, color=INK)
    return _finish(figure, path)


def _draw_episode(
    axis: Any, track: np.ndarray, apples: np.ndarray, radius: float, met: bool
) -> None:
    from matplotlib.patches import Circle

    for apple in apples:
        team_here = met and bool((np.linalg.norm(track[-1] - apple, axis=-1) <= radius).all())
        axis.add_patch(
            Circle(
                tuple(apple),
                radius,
                facecolor="#cfeadf" if team_here else "#f2f2f2",
                edgecolor="#009E73" if team_here else FAINT,
                linewidth=1.0,
                zorder=1,
            )
        )
    for agent in range(track.shape[1]):
        colour = RIGHT_COLOUR if track[-1, agent, 0] > 0 else LEFT_COLOUR
        x, y = track[:, agent].T
        axis.plot(x, y, color=colour, linewidth=1.1, alpha=0.85, zorder=2)
        axis.plot(x[0], y[0], "o", color="white", markeredgecolor=colour, markersize=3, zorder=3)
        axis.plot(x[-1], y[-1], "o", color=colour, markeredgewidth=0, markersize=4.5, zorder=4)


def _tidy(axis: Any) -> None:
    axis.tick_params(labelsize=7, colors=INK, length=2)
    for spine in axis.spines.values():
        spine.set_color(FAINT)


def tile_frames(films: Sequence[Sequence[np.ndarray]], columns: int = 2) -> list[np.ndarray]:
    """Put several films of equal size and length side by side.

    Args:
        films: each a sequence of T images ``[H, W, 3]``, uint8.
        columns: films per row; missing ones in the last row stay white.

    Returns:
        T images ``[rows * H, columns * W, 3]``.

    >>> film = [np.zeros((4, 6, 3), dtype=np.uint8)] * 5
    >>> frames = tile_frames([film] * 3, columns=2)
    >>> len(frames), frames[0].shape
    (5, (8, 12, 3))
    """
    grid = np.asarray(films, dtype=np.uint8)
    count, steps, height, width, channels = grid.shape
    rows = -(-count // columns)
    full = np.full((rows * columns, *grid.shape[1:]), 255, dtype=np.uint8)
    full[:count] = grid
    full = full.reshape(rows, columns, steps, height, width, channels)
    tiled = full.transpose(2, 0, 3, 1, 4, 5)
    return list(tiled.reshape(steps, rows * height, columns * width, channels))


def write_gif(
    frames: Sequence[np.ndarray],
    path: str | Path,
    fps: float = 10.0,
    hold: float = 1.0,
) -> Path:
    """Save images as an endlessly repeating GIF.

    Args:
        frames: at least one image ``[H, W, 3]``, uint8.
        path: where to save it.
        fps: images per second.
        hold: seconds to stand still on the last image, so that one sees the outcome.

    Returns:
        The path written.

    Raises:
        ValueError: there are no frames.
        ImportError: pillow is missing.

    >>> import tempfile
    >>> film = [np.zeros((4, 6, 3), dtype=np.uint8), np.full((4, 6, 3), 255, dtype=np.uint8)]
    >>> write_gif(film, Path(tempfile.mkdtemp()) / "film.gif").stat().st_size > 0
    True
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'GIFs need pillow, which is not installed: pip install "benchmarl-ssd[plot]".'
        ) from error
    if len(frames) == 0:
        raise ValueError("Expected at least one frame, found none; record an episode first.")
    images = [Image.fromarray(np.asarray(frame, dtype=np.uint8)) for frame in frames]
    durations = [round(1000 / fps)] * len(images)
    durations[-1] += round(1000 * hold)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True
    )
    return Path(path)
