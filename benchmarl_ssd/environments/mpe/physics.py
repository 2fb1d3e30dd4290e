"""Point-mass physics of the multi-agent particle environments (MPE), for many worlds at once.

All quantities are dimensionless, as in MPE. Tensors are *worlds-last*: a position is
``[2, bodies, worlds]``, so that every elementwise operation runs over long contiguous rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Bodies", "Physics"]

TIME_STEP = 0.1
DAMPING = 0.25
SENSITIVITY = 5.0
CONTACT_FORCE = 100.0
CONTACT_MARGIN = 1e-3
#: Squared lengths are bounded below by this before a square root: it keeps gradients finite for
#: bodies at rest or on the same spot, and is far below the resolution of float64 positions.
TINY = 1e-30


@dataclass(frozen=True)
class Bodies:
    """What a world consists of: first the movable bodies, then the landmarks.

    Args:
        size: radius of each body.
        collides: whether the body takes part in contacts.
        acceleration: for each *movable* body its acceleration c, or ``None`` for MPE's sensitivity.
        max_speed: for each *movable* body the limit of its speed, or ``None`` for no limit.

    Example:
        >>> bodies = Bodies(size=(0.1, 0.2), collides=(True, True),
        ...                 acceleration=(None,), max_speed=(None,))
        >>> bodies.movers, bodies.contact_pairs
        (1, [(0, 1)])
    """

    size: tuple[float, ...]
    collides: tuple[bool, ...]
    acceleration: tuple[float | None, ...]
    max_speed: tuple[float | None, ...]

    @property
    def movers(self) -> int:
        """Number of movable bodies; they come first."""
        return len(self.acceleration)

    @property
    def contact_pairs(self) -> list[tuple[int, int]]:
        """Pairs (a, b), a < b, that can touch: both collide and at least one can move."""
        count = len(self.size)
        return [
            (a, b)
            for a in range(self.movers)
            for b in range(a + 1, count)
            if self.collides[a] and self.collides[b]
        ]


class Physics:
    r"""One step of MPE's semi-implicit Euler integration with soft contacts.

    With time step :math:`\Delta t = 0.1`, damping :math:`\gamma = 0.25` and unit masses,

    .. math::
        F_a &= g_a u_a + \sum_b 100 \, p_{ab} \frac{x_a - x_b}{\lVert x_a - x_b \rVert}, \quad
        p_{ab} = k \log\bigl(1 + e^{-(\lVert x_a - x_b \rVert - s_a - s_b)/k}\bigr), \; k = 10^{-3}

        v_a &\leftarrow (1 - \gamma) v_a + \Delta t F_a, \quad
        v_a \leftarrow v_a \min(1, v^{max}_a / \lVert v_a \rVert), \quad
        x_a \leftarrow x_a + \Delta t \, v_a

    where contacts use the positions before the step. The gain :math:`g_a` is 5, or :math:`c_a^2`
    for a body with an acceleration :math:`c_a`: the environments of the offline literature apply
    the acceleration twice, and the published returns depend on it.

    Args:
        bodies: sizes, accelerations and speed limits.
        dtype: floating point type of the simulation.
        device: device of the simulation.

    Example:
        >>> bodies = Bodies((0.1,), (True,), (None,), (None,))
        >>> physics = Physics(bodies)
        >>> position, velocity = torch.zeros(2, 1, 1), torch.zeros(2, 1, 1)
        >>> action = torch.tensor([1.0, 0.0]).view(2, 1, 1)
        >>> position, velocity = physics.step(position, velocity, action)
        >>> velocity.flatten().tolist()  # 5 * 0.1
        [0.5, 0.0]
    """

    def __init__(
        self,
        bodies: Bodies,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.bodies = bodies
        options: dict[str, Any] = {"dtype": dtype, "device": device}
        gains = [SENSITIVITY if c is None else c * c for c in bodies.acceleration]
        self._gain = torch.tensor(gains, **options).unsqueeze(-1)
        limits = [float("inf") if limit is None else limit for limit in bodies.max_speed]
        self._has_limit = any(limit is not None for limit in bodies.max_speed)
        self._max_speed = torch.tensor(limits, **options).unsqueeze(-1)

        pairs = bodies.contact_pairs
        self._first = torch.tensor([a for a, _ in pairs], dtype=torch.long, device=device)
        self._second = torch.tensor([b for _, b in pairs], dtype=torch.long, device=device)
        reach = [bodies.size[a] + bodies.size[b] for a, b in pairs]
        self._reach = torch.tensor(reach, **options).unsqueeze(-1)

    def contact_forces(self, position: Tensor) -> Tensor:
        """Sum of the contact forces on each movable body.

        Args:
            position: ``[2, bodies, worlds]``.

        Returns:
            Forces ``[2, movers, worlds]``.
        """
        delta = position.index_select(1, self._first) - position.index_select(1, self._second)
        distance = delta.square().sum(0).clamp_min(TINY).sqrt()
        depth = (self._reach - distance) / CONTACT_MARGIN
        # log(1 + exp(z)) without overflow; exact also where softplus would switch to its asymptote
        penetration = CONTACT_MARGIN * (depth.relu() + depth.abs().neg().exp().log1p())
        force = delta * (CONTACT_FORCE * penetration / distance)
        total = torch.zeros_like(position).index_add(1, self._first, force)
        return total.index_add(1, self._second, force, alpha=-1)[:, : self.bodies.movers]

    def step(self, position: Tensor, velocity: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Advance all worlds by one time step.

        Args:
            position: of all bodies, ``[2, bodies, worlds]``.
            velocity: of the movable bodies, ``[2, movers, worlds]``.
            action: of the movable bodies, ``[2, movers, worlds]``, each component in [-1, 1].

        Returns:
            Position and velocity after the step, in the same shapes.
        """
        movers = self.bodies.movers
        force = torch.addcmul(self.contact_forces(position), self._gain, action)
        velocity = velocity * (1.0 - DAMPING) + force * TIME_STEP
        if self._has_limit:
            speed = velocity.square().sum(0).clamp_min(TINY).sqrt()
            velocity = velocity * (self._max_speed / speed).clamp_max(1.0)
        moved = position[:, :movers] + velocity * TIME_STEP
        return torch.cat((moved, position[:, movers:]), 1), velocity
