"""Records a dataset: plays a policy in an environment and writes what happens."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from tensordict import TensorDict
from torchrl.data import Binary, Bounded, Categorical, OneHot
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from tqdm import tqdm

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import Key
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.rollout import Policy, rollout_chunks
from benchmarl_ssd.data.writer import DatasetWriter

Exploration = Literal["deterministic", "random"]


def record(
    env: EnvBase,
    policy: Policy | None,
    path: str | os.PathLike[str],
    *,
    groups: Mapping[str, Sequence[str]],
    max_steps: int,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    exploration: Exploration = "random",
    keys: Sequence[Key] | None = None,
    task: Mapping[str, Any] | None = None,
    id: str | None = None,
    references: Mapping[str, float | None] | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> DatasetMetadata:
    """Play a policy in an environment and write a dataset of whole episodes.

    The same arguments and seed give the same files, byte for byte, on the same machine. The random
    states of torch, numpy and Python are given back as they were.

    Args:
        env: a TorchRL environment of batch size ``[E]`` or ``[]``.
        policy: as for :func:`~benchmarl_ssd.data.rollout.rollout_chunks`; None draws actions
            uniformly.
        path: the folder to write; it must not exist.
        groups: names of the agents, by group.
        max_steps: longest episode, in steps.
        transitions: stop with the first episode that reaches this many, > 0; or
        episodes: record exactly this many, > 0. Give one of the two.
        seed: seed of the environment and of all random states.
        exploration: ``"random"`` lets a policy explore, ``"deterministic"`` does not.
        keys: what to store besides actions, rewards and flags; None stores what the agents
            observe, and ``state``.
        task: ``environment``, ``name`` and ``config`` of the BenchMARL task, if there is one.
        id: the id of the recipe, if there is one.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        source: ``kind``, ``policy`` and free entries that say what recorded.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Returns:
        The metadata of the dataset.

    Raises:
        DatasetError: if an argument is out of range or the policy's data does not fit; nothing is
            left at ``path`` then.

    Example:
        >>> import tempfile
        >>> from torchrl.envs.libs.vmas import VmasEnv
        >>> env = VmasEnv("balance", num_envs=2, max_steps=3, seed=0)
        >>> path = tempfile.mkdtemp() + "/balance"
        >>> metadata = record(env, None, path, groups=env.group_map, max_steps=3, episodes=4,
        ...                   progress=False)
        >>> metadata.counts
        {'transitions': 12, 'episodes': 4, 'terminated': 0, 'truncated': 4}
    """
    unit = _check_arguments(transitions, episodes, exploration)
    wanted: int = transitions if transitions is not None else episodes  # type: ignore[assignment]
    about = {"seed": seed, "exploration": exploration, "num_envs": env.batch_size.numel()}
    writer = DatasetWriter(
        path,
        groups=groups,
        action_bounds={group: action_bounds(env, group) for group in groups},
        task=task,
        id=id,
        references=references,
        source={"kind": "policy", **(source or {}), **about},
    )
    with writer, preserved_random_state(), _exploring(exploration):
        env.set_seed(seed)
        # An environment with a generator of its own would otherwise make its start states of the
        # very random numbers that the policy makes its choices and its noise of.
        seed_everything(seed + POLICY_SEED_OFFSET)
        chunks = rollout_chunks(env, policy, max_steps=max_steps, groups=groups, keys=keys)
        off = None if progress else True  # None: no bar where nobody watches
        with tqdm(total=wanted, unit=f" {unit}", file=sys.stderr, disable=off) as bar:
            while (got := getattr(writer, unit)) < wanted:
                writer.extend(_first(next(chunks), unit, wanted - got))
                bar.update(min(getattr(writer, unit), wanted) - got)
    assert writer.metadata is not None
    return writer.metadata


def action_bounds(env: EnvBase, group: str) -> dict[str, torch.Tensor]:
    """Read a group's lowest and highest actions from the environment's action spec.

    Args:
        env: a TorchRL environment.
        group: the group's name.

    Returns:
        ``low`` and ``high``, of the shape of one action, ``[n, action]``; for categorical actions
        ``[n]``, from 0 to the number of choices less one.

    Raises:
        DatasetError: if there is no such group, or its actions have no bounds.

    Example:
        >>> from torchrl.envs.libs.vmas import VmasEnv
        >>> action_bounds(VmasEnv("balance", num_envs=2), "agents")["high"].shape
        torch.Size([3, 2])
    """
    keys = [key for key in env.full_action_spec_unbatched.keys(True, True) if key[0] == group]
    if (group, "action") not in keys:
        raise DatasetError(
            f"expected the environment to have an action of group {group!r}, found the actions "
            f"{list(env.full_action_spec_unbatched.keys(True, True))}; name its groups"
        )
    spec = env.full_action_spec_unbatched[group, "action"]
    if isinstance(spec, OneHot | Binary):
        return {"low": torch.zeros(spec.shape), "high": torch.ones(spec.shape)}
    if isinstance(spec, Categorical):
        return {"low": torch.zeros(spec.shape), "high": torch.full(spec.shape, spec.n - 1)}
    if isinstance(spec, Bounded):
        return {"low": spec.space.low.cpu(), "high": spec.space.high.cpu()}
    raise DatasetError(
        f"expected actions with bounds, found {type(spec).__name__} for group {group!r}; "
        "give the environment a bounded action spec"
    )


POLICY_SEED_OFFSET = 0x5EED
"""What is added to a recording's seed for the policy's random numbers."""


def seed_everything(seed: int) -> None:
    """Seed the random states of torch, numpy and Python.

    Args:
        seed: the seed, >= 0.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - environments draw from the global state
    torch.manual_seed(seed)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give back the global random states afterwards, as they were before.

    These are torch's, numpy's and Python's, and the one that all VMAS simulators of a process
    share, if VMAS is in use: recording in the middle of a run does not change the run.

    Example:
        >>> before = torch.get_rng_state()
        >>> with preserved_random_state():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    simulator = sys.modules.get("vmas.simulator.environment.environment")
    shared = getattr(getattr(simulator, "Environment", None), "vmas_random_state", None)
    before = list(shared) if shared is not None else []
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if shared is not None:
            shared[:] = before


@contextmanager
def _exploring(exploration: Exploration) -> Iterator[None]:
    kind = ExplorationType.RANDOM if exploration == "random" else ExplorationType.DETERMINISTIC
    with set_exploration_type(kind):
        yield


def _check_arguments(transitions: int | None, episodes: int | None, exploration: str) -> str:
    given = {"transitions": transitions, "episodes": episodes}
    wanted = {name: value for name, value in given.items() if value is not None}
    if len(wanted) != 1 or min(wanted.values()) < 1:
        raise DatasetError(
            f"expected either transitions or episodes, at least 1, found {given}; give one of them"
        )
    if exploration not in get_args(Exploration):
        raise DatasetError(
            f"expected exploration to be one of {', '.join(get_args(Exploration))}, "
            f"found {exploration!r}"
        )
    return next(iter(wanted))


def _first(chunk: TensorDict, unit: str, wanted: int) -> TensorDict:
    """Keep the first whole episodes that reach what is wanted."""
    ends = chunk["next", "done"].flatten().nonzero().flatten() + 1
    reached = ends if unit == "transitions" else torch.arange(1, len(ends) + 1)
    enough = int((reached < wanted).sum())
    return chunk[: int(ends[min(enough, len(ends) - 1)])]
