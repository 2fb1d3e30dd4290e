"""Teams that must agree: Cooperative Navigation under conventions of who takes which landmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

__all__ = ["CONVENTIONS", "NOISE", "LandmarkController", "convention_of"]

#: The conventions of the recipe ``mpe/cooperative_navigation/mixed``: landmark i, landmark i + 1.
CONVENTIONS = (0, 1)
#: Standard deviation of the noise that the recipe adds to the controllers' actions.
NOISE = 0.2


class LandmarkController(nn.Module):
    r"""Sends agent *i* to landmark :math:`(i + k) \bmod n`, fast, and stops it there.

    With the landmark's relative position :math:`d_i` and the velocity :math:`v_i`, both of them in
    the agent's own observation,

    .. math::
        u_i = g \, d_i - h \, v_i, \qquad a_i = u_i / \max(1, \lVert u_i \rVert_\infty),

    so that the action keeps its direction where it meets the box. In the physics of MPE a step is
    :math:`d \leftarrow d - 0.075 v - 0.05 a` and :math:`v \leftarrow 0.75 v + 0.5 a`: the gains
    let the force act fully until just before the landmark, and damp all oscillations.

    Args:
        offset: the convention k, an integer.
        position_gain: g, > 0.
        velocity_gain: h, >= 0.

    Example:
        >>> observation = torch.zeros(1, 3, 18)
        >>> observation[0, 0, 4:10] = torch.tensor([1.0, 0.5, 0.0, -0.02, -1.0, 0.0])
        >>> LandmarkController(offset=0)(observation)[0, 0].tolist()  # far away: full force
        [1.0, 0.5]
        >>> [round(u, 2) for u in LandmarkController(offset=1)(observation)[0, 0].tolist()]
        [0.0, -0.2]
    """

    def __init__(
        self, offset: int, position_gain: float = 10.0, velocity_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.offset = offset
        self.position_gain = position_gain
        self.velocity_gain = velocity_gain

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[..., n, 2]`` for observations ``[..., n, 6 n]``."""
        n = observation.shape[-2]
        agents = torch.arange(n, device=observation.device)
        # an observation starts with velocity 2, position 2, landmarks' relative positions 2 n
        velocity, landmarks = observation[..., :2], observation[..., 4 : 4 + 2 * n]
        towards = landmarks.unflatten(-1, (n, 2))[..., agents, (agents + self.offset) % n, :]
        force = self.position_gain * towards - self.velocity_gain * velocity
        return force / force.abs().amax(-1, keepdim=True).clamp_min(1.0)


def convention_of(
    observation: Tensor, action: Tensor, offsets: Sequence[int] | None = None
) -> Tensor:
    r"""Tell which convention each agent's action follows.

    With the noise-free controllers :math:`\pi^k` of the conventions, agent *i* follows

    .. math::
        k_i = \arg\max_k \cos\angle(a_i, \pi^k_i(o_i)).

    At an episode's first step, where agents rest, this is the landmark whose direction the action
    has. Two landmarks in about the same direction are told apart no better than the noise allows.

    Args:
        observation: of all agents, ``[..., n, 6 n]``.
        action: of all agents, ``[..., n, 2]``.
        offsets: the conventions to choose from; all n of them by default.

    Returns:
        The offset of every agent, ``[..., n]``, integers.

    Example:
        >>> observation = torch.zeros(1, 3, 18)
        >>> observation[..., 4:10] = torch.tensor([1.0, 0.0, 0.0, 1.0, -1.0, -1.0])
        >>> action = torch.tensor([[[0.9, 0.1], [-0.9, -1.0], [-0.1, 1.0]]])
        >>> convention_of(observation, action)  # landmarks 0, 2 and 1
        tensor([[0, 1, 2]])
    """
    choices = range(observation.shape[-2]) if offsets is None else offsets
    likeness = torch.stack(
        [cosine_similarity(action, LandmarkController(k)(observation), dim=-1) for k in choices]
    )
    return torch.tensor(list(choices), device=action.device)[likeness.argmax(0)]
