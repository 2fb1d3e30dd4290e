"""Records what a recipe plays, and checks what has been recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchrl.envs import EnvBase

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import Key
from benchmarl_ssd.data.recording import (
    Exploration,
    preserved_random_state,
    record,
    seed_everything,
)
from benchmarl_ssd.data.rollout import Policy
from benchmarl_ssd.data.validation import validate

if TYPE_CHECKING:
    from benchmarl_ssd.data.recipes import Recipe


@dataclass
class RecordingSetup:
    """What a recipe plays: everything :func:`~benchmarl_ssd.data.recording.record` needs.

    Args:
        env: a TorchRL environment of batch size ``[E]`` or ``[]``.
        policy: takes and returns TensorDicts; None draws actions uniformly.
        max_steps: longest episode, in steps.
        groups: names of the agents, by group.
        task: ``environment``, ``name`` and ``config`` of the BenchMARL task.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``);
            None leaves those of the recipe.
        source: free entries that say what recorded, such as ``policy``.
        keys: what to store besides actions, rewards and flags; None stores what the agents
            observe, and ``state``.
        exploration: ``"random"`` lets the policy explore, ``"deterministic"`` does not.
    """

    env: EnvBase
    policy: Policy | None
    max_steps: int
    groups: Mapping[str, Sequence[str]]
    task: Mapping[str, Any]
    references: Mapping[str, float | None] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    keys: Sequence[Key] | None = None
    exploration: Exploration = "random"


def record_recipe(recipe: Recipe, path: Path, transitions: int, seed: int, progress: bool) -> None:
    """Record a recipe's dataset.

    Args:
        recipe: what to play.
        path: the folder to write; it must not exist.
        transitions: stop with the first episode that reaches this many, > 0.
        seed: the recording's seed.
        progress: whether to draw a progress bar on stderr, if that is a terminal.

    Raises:
        DatasetError: as :func:`~benchmarl_ssd.data.recording.record`.
    """
    with preserved_random_state():
        seed_everything(seed)
        setup = recipe.setup(seed)
        try:
            record(
                setup.env,
                setup.policy,
                path,
                groups=setup.groups,
                max_steps=setup.max_steps,
                transitions=transitions,
                seed=seed,
                exploration=setup.exploration,
                keys=setup.keys,
                task=setup.task,
                id=recipe.id,
                references=setup.references or recipe.references,
                source={
                    **setup.source,
                    "kind": "recipe",
                    "recipe": {"version": recipe.version, "config": dict(recipe.config)},
                },
                progress=progress,
            )
        finally:
            setup.env.close()


def checked(path: Path) -> Path:
    """Return a built dataset's folder if it is sound.

    Args:
        path: the folder.

    Raises:
        DatasetError: if it is damaged; the message says how to build it anew.
    """
    try:
        validate(path, "fast")
    except DatasetError as error:
        raise DatasetError(
            f"{error} (this is a built dataset: remove {path} to build it anew)"
        ) from None
    return path
