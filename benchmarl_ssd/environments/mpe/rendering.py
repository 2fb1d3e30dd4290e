"""RGB frames of an MPE world: no window, no display server, no extra package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarl_ssd.environments.coordination.drawing import Canvas

__all__ = ["COLOURS", "render_frame"]

#: fill colour of each kind of body, from Okabe and Ito's palette where it moves or matters
COLOURS: Mapping[str, tuple[int, int, int]] = {
    "agent": (0, 114, 178),
    "prey": (0, 158, 115),
    "landmark": (110, 110, 110),
    "obstacle": (110, 110, 110),
    "food": (230, 159, 0),
    "forest": (200, 225, 195),
}
#: frames show at least [-1, 1]^2, and this margin around the outermost body
MARGIN = 0.1


def render_frame(
    positions: np.ndarray,
    sizes: Sequence[float],
    kinds: Sequence[str],
    shape: tuple[int, int] = (256, 256),
) -> np.ndarray:
    """Draw bodies as discs, the x axis to the right and the y axis up.

    Args:
        positions: ``[bodies, 2]``.
        sizes: radius of each body.
        kinds: kind of each body, a key of :data:`COLOURS`.
        shape: height and width of the frame in pixels.

    Returns:
        A frame of shape ``[height, width, 3]`` and type ``uint8``.

    Example:
        >>> frame = render_frame(np.zeros((1, 2)), [0.2], ["agent"], (60, 80))
        >>> frame.shape, frame.dtype, tuple(int(c) for c in frame[30, 40])
        ((60, 80, 3), dtype('uint8'), (0, 114, 178))
    """
    height, width = shape
    radii = np.asarray(sizes)[:, None]
    half = max(1.0, float(np.max(np.abs(positions) + radii, initial=0.0))) + MARGIN
    x, y = half * width / min(shape), half * height / min(shape)
    canvas = Canvas(width, height, x_range=(-x, x), y_range=(-y, y))
    # large bodies first, so that a forest does not cover who is in it
    for body in sorted(range(len(kinds)), key=lambda body: -sizes[body]):
        centre = (float(positions[body, 0]), float(positions[body, 1]))
        canvas.disc(centre, sizes[body], COLOURS[kinds[body]])
    return canvas.image()
