"""What agents see: vectors of a world's state, gathered for all agents and worlds at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["NOTHING", "Seen", "Views", "standard_view"]


class Seen(NamedTuple):
    """A two-dimensional vector of the state: a velocity or a position, relative to an origin.

    Args:
        kind: ``velocity`` or ``position``, or ``nothing`` for two zeros.
        body: whose velocity or position.
        origin: the body whose position is subtracted, or ``None`` for the absolute vector.
    """

    kind: str
    body: int = 0
    origin: int | None = None


NOTHING = Seen("nothing")


def standard_view(observer: int, movers: int, bodies: int) -> list[Seen]:
    """What all tasks show first: own velocity and position, landmarks, other movable bodies.

    Example:
        >>> len(standard_view(observer=0, movers=3, bodies=6))  # two entries each
        7
    """
    landmarks = range(movers, bodies)
    others = (body for body in range(movers) if body != observer)
    return [
        Seen("velocity", observer),
        Seen("position", observer),
        *(Seen("position", body, observer) for body in landmarks),
        *(Seen("position", body, observer) for body in others),
    ]


class Views:
    """Gathers the views of several observers from a state.

    Each entry is the difference of two rows of the stacked state, one of which may be zero. Rows
    are gathered worlds last, and turned to worlds first in one go: several times faster than
    assembling the observations piece by piece.

    Args:
        movers: number of movable bodies.
        bodies: number of all bodies.
        views: for each observer the vectors it sees, equally many for all.
        device: device of the states.

    Example:
        >>> views = Views(1, 2, [[Seen("velocity", 0), Seen("position", 1, origin=0)]])
        >>> position = torch.tensor([[1.0, 3.0], [0.0, 1.0]]).unsqueeze(-1)
        >>> views.observe(position, velocity=torch.full((2, 1, 1), 0.5)).tolist()
        [[[0.5, 0.5, 2.0, 1.0]]]
    """

    def __init__(
        self,
        movers: int,
        bodies: int,
        views: Sequence[Iterable[Seen]],
        device: torch.device | str = "cpu",
    ) -> None:
        # the stacked state: velocities x and y, positions x and y, and a row of zeros
        zero = 2 * movers + 2 * bodies
        first = {"velocity": (0, movers), "position": (2 * movers, 2 * movers + bodies)}
        rows, origins = [], []
        for seen in (vector for view in views for vector in view):
            for axis in range(2):
                rows.append(zero if seen == NOTHING else first[seen.kind][axis] + seen.body)
                origin = seen.origin
                origins.append(zero if origin is None else first["position"][axis] + origin)
        self.observers = len(views)
        self._rows = torch.tensor(rows, device=device)
        self._origins = torch.tensor(origins, device=device)

    def observe(self, position: Tensor, velocity: Tensor) -> Tensor:
        """Observations of all observers.

        Args:
            position: ``[2, bodies, worlds]``.
            velocity: ``[2, movers, worlds]``.

        Returns:
            ``[worlds, observers, size]``, contiguous.
        """
        zeros = position.new_zeros(1, position.shape[-1])
        state = torch.cat((velocity.flatten(0, 1), position.flatten(0, 1), zeros))
        entries = state.index_select(0, self._rows) - state.index_select(0, self._origins)
        return entries.t().contiguous().unflatten(-1, (self.observers, -1))
