"""The policies that come with the MPE tasks, and how the levels of play are mixed from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarl_ssd.environments.mpe.conventions import CONVENTIONS, NOISE, LandmarkController

__all__ = [
    "LEVELS",
    "AgentPolicy",
    "Behaviour",
    "kinds",
    "load_behaviours",
    "load_policy",
    "uniform_policy",
]

ASSETS = Path(__file__).parent / "assets"
TASKS = ("cooperative_navigation", "predator_prey", "world")
#: levels of play, in descending order of return
LEVELS = ("expert", "medium", "medium-replay", "random")
#: Teams of two conventions of equal return, a coin's toss per episode; no level of play.
MIXED = "mixed"


class AgentPolicy(nn.Module):
    r"""Decentralised policy of a team: one network, and a bias of its own for every agent.

    With the observation :math:`o_i` of agent *i* alone,

    .. math::
        \pi_i(o_i) = \tanh\bigl(W_3 \, [W_2 \, [W_1 o_i + b_1 + c_i]_+ + b_2]_+ + b_3\bigr).

    The agents share all parameters but the bias :math:`c_i`, which lets them take different roles.

    Args:
        observation_size: number of entries of an agent's observation.
        n_agents: number of agents.
        hidden: width of the two hidden layers.

    Example:
        >>> policy = AgentPolicy(observation_size=18, n_agents=3)
        >>> tuple(policy(torch.zeros(5, 3, 18)).shape)
        (5, 3, 2)
    """

    def __init__(self, observation_size: int, n_agents: int, hidden: int = 64) -> None:
        super().__init__()
        self.fc1 = nn.Linear(observation_size, hidden)
        self.agent_bias = nn.Parameter(torch.zeros(n_agents, hidden))
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[..., n_agents, 2]`` for observations ``[..., n_agents, observation_size]``."""
        hidden = torch.relu(self.fc1(observation) + self.agent_bias)
        return torch.tanh(self.fc3(torch.relu(self.fc2(hidden))))


def uniform_policy(observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Actions drawn uniformly from the box, whatever the observation.

    Args:
        observation: ``[..., n_agents, size]``; only its shape, type and device matter.
        generator: source of randomness, on the CPU; torch's global one by default.

    Returns:
        Actions ``[..., n_agents, 2]`` in [-1, 1].

    Example:
        >>> tuple(uniform_policy(torch.zeros(5, 3, 18)).shape)
        (5, 3, 2)
    """
    shape = (*observation.shape[:-1], 2)
    draw = torch.rand(shape, generator=generator, dtype=observation.dtype)
    return draw.to(observation.device) * 2.0 - 1.0


@dataclass(frozen=True)
class Behaviour:
    """A policy, how noisily it acts, and how much of a dataset it plays.

    Args:
        policy: from observations to actions, or ``None`` for uniformly random actions.
        noise: standard deviation of the Gaussian noise added to actions before they are clamped.
        share: fraction of the transitions, between 0 and 1.

    Example:
        >>> behaviour = Behaviour(policy=None, noise=0.0, share=1.0)
        >>> behaviour.act(torch.zeros(5, 3, 18)).abs().max().item() <= 1
        True
    """

    policy: nn.Module | None
    noise: float
    share: float = 1.0

    @torch.no_grad()
    def act(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noisy actions in [-1, 1].

        Args:
            observation: ``[..., n_agents, size]``.
            generator: source of the noise, on the CPU; torch's global one by default.
        """
        if self.policy is None:
            return uniform_policy(observation, generator)
        action = self.policy(observation)
        if self.noise > 0:
            draw = torch.randn(action.shape, generator=generator, dtype=action.dtype)
            action = action + self.noise * draw.to(action.device)
        return action.clamp(-1.0, 1.0)


def kinds(task: str) -> tuple[str, ...]:
    """The kinds of data of a task: the levels of play, and what else there is.

    Args:
        task: ``cooperative_navigation``, ``predator_prey`` or ``world``.

    Example:
        >>> kinds("cooperative_navigation")
        ('expert', 'medium', 'medium-replay', 'random', 'mixed')
    """
    return (*LEVELS, MIXED) if task == "cooperative_navigation" else LEVELS


def load_behaviours(task: str, level: str, device: torch.device | str = "cpu") -> list[Behaviour]:
    """What plays at a level: one behaviour, or the training history for ``medium-replay``.

    The history runs from the initial policy to the medium one in equal parts of the training,
    each with the exploration noise it was trained with. ``mixed`` is one behaviour per convention.

    Args:
        task: ``cooperative_navigation``, ``predator_prey`` or ``world``.
        level: one of :func:`kinds`.
        device: device of the policies.

    Returns:
        Behaviours in the order of training; their shares sum to one.

    Raises:
        ValueError: for an unknown task or level.

    Example:
        >>> [behaviour] = load_behaviours("world", "expert")
        >>> tuple(behaviour.act(torch.zeros(1, 3, 24)).shape)
        (1, 3, 2)
        >>> round(sum(part.share for part in load_behaviours("world", "medium-replay")), 6)
        1.0
    """
    if task not in TASKS:
        raise ValueError(f"no policies for task {task!r}: expected one of {', '.join(TASKS)}")
    if level not in kinds(task):
        raise ValueError(f"unknown level {level!r}: expected one of {', '.join(kinds(task))}")
    if level == "random":
        return [Behaviour(policy=None, noise=0.0)]
    if level == MIXED:
        share = 1.0 / len(CONVENTIONS)
        return [Behaviour(LandmarkController(k), NOISE, share) for k in CONVENTIONS]
    parts = _read(task)[level]
    return [Behaviour(_build(values).to(device), noise, share) for values, noise, share in parts]


def load_policy(
    task: str, level: str, device: torch.device | str = "cpu"
) -> Callable[[Tensor], Tensor]:
    """The noise-free policy of a level.

    Args:
        task: ``cooperative_navigation``, ``predator_prey`` or ``world``.
        level: ``expert``, ``medium`` or ``random``.
        device: device of the policy.

    Returns:
        A callable from observations ``[..., n_agents, size]`` to actions ``[..., n_agents, 2]``.

    Raises:
        ValueError: for an unknown task or level, and for ``medium-replay`` and ``mixed``, which
            are many policies.

    Example:
        >>> policy = load_policy("predator_prey", "medium")
        >>> tuple(policy(torch.zeros(5, 3, 16)).shape)
        (5, 3, 2)
    """
    behaviours = load_behaviours(task, level, device)
    if len(behaviours) > 1:
        raise ValueError(f"{level!r} consists of {len(behaviours)} policies: use load_behaviours")
    return behaviours[0].policy or uniform_policy


@cache
def _read(task: str) -> dict[str, list[tuple[dict[str, Tensor], float, float]]]:
    """Parameters, noise and share of every part of every level, from the task's file."""
    # half precision on disk keeps the package small; a policy computes in single precision
    with safe_open(ASSETS / f"{task}_policies.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        levels = json.loads(file.metadata()["levels"])
    return {
        level: [
            (
                {
                    key.removeprefix(f"{part['policy']}."): value
                    for key, value in tensors.items()
                    if key.startswith(f"{part['policy']}.")
                },
                part["noise"],
                part["share"],
            )
            for part in parts
        ]
        for level, parts in levels.items()
    }


def _build(parameters: dict[str, Tensor]) -> AgentPolicy:
    hidden, observation_size = parameters["fc1.weight"].shape
    # without initial values, whose drawing would disturb the caller's random numbers
    with torch.device("meta"):
        policy = AgentPolicy(observation_size, len(parameters["agent_bias"]), hidden)
    policy.load_state_dict(parameters, assign=True)
    return policy.eval().requires_grad_(False)
