"""A tiny numpy canvas, so that rendering needs neither a display nor an extra package."""

from __future__ import annotations

import numpy as np

Colour = tuple[int, int, int]
Point = tuple[float, float]

GREY: Colour = (190, 190, 190)
LEFT_COLOUR: Colour = (0, 114, 178)
RIGHT_COLOUR: Colour = (213, 94, 0)
# Okabe and Ito's palette: distinguishable with any common form of colour blindness.
AGENT_COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)


class Canvas:
    """An RGB image in world coordinates, with anti-aliased discs, rings and segments.

    A shape is drawn from its signed distance d (in pixels, negative inside): every pixel is blended
    with opacity clip(1/2 - d, 0, 1).

    Args:
        width: pixels; even, since video encoders want that.
        height: pixels; even.
        x_range: world coordinates of the left and the right border.
        y_range: world coordinates of the lower and the upper border. Lengths are scaled by the
            x axis, so choose both ranges with one scale.
        background: colour of the empty canvas.

    >>> canvas = Canvas(8, 8, x_range=(-1, 1), y_range=(-1, 1))
    >>> canvas.disc((0.0, 0.0), radius=0.5, colour=(0, 0, 0))
    >>> image = canvas.image()
    >>> image.shape, int(image[4, 4, 0]), int(image[0, 0, 0])
    ((8, 8, 3), 0, 255)
    """

    def __init__(
        self,
        width: int,
        height: int,
        x_range: Point,
        y_range: Point,
        background: Colour = (255, 255, 255),
    ):
        self._pixels = np.empty((height, width, 3))
        self._pixels[:] = background
        self._scale = width / (x_range[1] - x_range[0])
        x = np.linspace(*x_range, 2 * width + 1)[1::2]
        y = np.linspace(y_range[1], y_range[0], 2 * height + 1)[1::2]  # image rows go downwards
        self._x, self._y = np.meshgrid(x, y)

    def _blend(self, distance: np.ndarray, colour: Colour, opacity: float) -> None:
        alpha = np.clip(0.5 - distance * self._scale, 0.0, 1.0)[..., None] * opacity
        self._pixels = (1 - alpha) * self._pixels + alpha * np.asarray(colour)

    def _distance_to(self, centre: Point) -> np.ndarray:
        return np.hypot(self._x - centre[0], self._y - centre[1])

    def disc(self, centre: Point, radius: float, colour: Colour, opacity: float = 1.0) -> None:
        """Fill a disc of the given world radius; ``opacity`` lies in [0, 1]."""
        self._blend(self._distance_to(centre) - radius, colour, opacity)

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle line of the given world width around ``centre``."""
        self._blend(np.abs(self._distance_to(centre) - radius) - width / 2, colour, 1.0)

    def segment(self, start: Point, end: Point, radius: float, colour: Colour) -> None:
        """Draw a straight line with round ends, ``2 * radius`` wide."""
        direction = np.subtract(end, start)
        length2 = max(float(direction @ direction), 1e-12)
        along = (self._x - start[0]) * direction[0] + (self._y - start[1]) * direction[1]
        t = np.clip(along / length2, 0.0, 1.0)
        distance = np.hypot(
            self._x - start[0] - t * direction[0], self._y - start[1] - t * direction[1]
        )
        self._blend(distance - radius, colour, 1.0)

    def image(self) -> np.ndarray:
        """Return the picture, ``[height, width, 3]``, uint8."""
        return np.rint(self._pixels).astype(np.uint8)


def draw_apples(agents: np.ndarray, distance: float, radius: float) -> np.ndarray:
    """Draw one state of two apples.

    Args:
        agents: positions ``[n, 2]``.
        distance: of each apple from the middle.
        radius: within which an agent stands at an apple.

    Returns:
        Image ``[200, 360, 3]``, uint8. A filled apple is one at which the whole team stands.
    """
    half = max(distance + radius + 0.15, 1.1)  # the start slots need room, too
    top = half * 200 / 360
    canvas = Canvas(360, 200, x_range=(-half, half), y_range=(-top, top))
    for y in (-top, top):  # a thin frame keeps worlds apart when films are tiled
        canvas.segment((-half, y), (half, y), half / 180, GREY)
    for x in (-half, half):
        canvas.segment((x, -top), (x, top), half / 180, GREY)
    for side, colour in ((-1.0, LEFT_COLOUR), (1.0, RIGHT_COLOUR)):
        centre = (side * distance, 0.0)
        together = bool((np.linalg.norm(agents - centre, axis=-1) <= radius).all())
        canvas.disc(centre, radius, colour, opacity=0.55 if together else 0.15)
        canvas.ring(centre, radius, width=half / 90, colour=colour)
    for i, (x, y) in enumerate(agents):
        canvas.disc((float(x), float(y)), half / 28, (255, 255, 255))
        canvas.disc((float(x), float(y)), half / 36, AGENT_COLOURS[(i + 2) % len(AGENT_COLOURS)])
    return canvas.image()
