"""Recipes: datasets that are made again on any machine instead of being downloaded."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs
from torchrl.envs import EnvBase

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import METADATA_FILE, Key
from benchmarl_ssd.data.recording import (
    Exploration,
    preserved_random_state,
    record,
    seed_everything,
)
from benchmarl_ssd.data.rollout import Policy
from benchmarl_ssd.data.validation import validate

ROOT_VARIABLE = "BENCHMARL_SSD_ROOT"


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


Make = Callable[[int, dict[str, Any]], RecordingSetup]


@dataclass(frozen=True)
class Recipe:
    """How to make a dataset.

    Args:
        id: its name, such as ``"coordination/bandit/modes"``.
        description: one sentence for people.
        environment: the BenchMARL environment of its task.
        name: the task's name there.
        make: ``make(seed, config)`` returns a :class:`RecordingSetup`; or where to find it, as
            ``"module:function"``, imported on first use.
        config: the task's options that differ from its defaults; handed to ``make`` as a copy.
        transitions: how many transitions to record unless said otherwise, > 0.
        references: returns that a normalised score takes for 0 (``random``) and 1 (``expert``).
        version: raise it whenever the recipe would record other data than before.

    Example:
        >>> recipe = Recipe("toy/left", "Always left.", "toy", "left", make="toy.recipes:left")
        >>> recipe.folder_name(1000, seed=3)
        'v1-1000-transitions-seed-3'
    """

    id: str
    description: str
    environment: str
    name: str
    make: Make | str
    config: Mapping[str, Any] = field(default_factory=dict)
    transitions: int = 100_000
    references: Mapping[str, float | None] | None = None
    version: int = 1

    def setup(self, seed: int) -> RecordingSetup:
        """Make the environment and the policy.

        Args:
            seed: the recording's seed.
        """
        make = self.make
        if isinstance(make, str):
            module, _, function = make.partition(":")
            make = getattr(importlib.import_module(module), function)
        return make(seed, dict(self.config))

    def folder_name(self, transitions: int | None = None, seed: int = 0) -> str:
        """Name the folder of one build.

        Args:
            transitions: how many are recorded; None for the recipe's own number.
            seed: the recording's seed.
        """
        count = self.transitions if transitions is None else transitions
        options = "".join(f"-{key}={self.config[key]}" for key in sorted(self.config))
        # Options are part of the name, shortened to a digest where they would not make a good one.
        if len(options) > 60 or not re.fullmatch(r"[-\w.=]*", options):
            options = f"-{hashlib.sha256(options.encode()).hexdigest()[:12]}"
        return f"v{self.version}-{count}-transitions-seed-{seed}{options}"

    def configured(self, config: Mapping[str, Any] | None) -> Recipe:
        """Give the same recipe for other options of its task.

        Args:
            config: options by name, which replace the recipe's own; None changes nothing.

        Example:
            >>> recipe = Recipe("toy/left", "Always left.", "toy", "left", make="toy.recipes:left")
            >>> recipe.configured({"n_agents": 8}).folder_name(1000)
            'v1-1000-transitions-seed-0-n_agents=8'
        """
        return dataclasses.replace(self, config={**self.config, **(config or {})})


_RECIPES: dict[str, Recipe] = {}


def register_recipe(recipe: Recipe) -> Recipe:
    """Make a recipe known under its id; the same recipe may be registered again.

    Args:
        recipe: the recipe.

    Raises:
        DatasetError: if another recipe has that id, or the id could lead out of the root.
    """
    parts = recipe.id.split("/")
    if not all(part and part.strip(".") and "\\" not in part for part in parts):
        raise DatasetError(f"expected an id such as environment/task/kind, found {recipe.id!r}")
    if _RECIPES.get(recipe.id, recipe) != recipe:
        raise DatasetError(f"expected a new id, found {recipe.id!r}, which another recipe has")
    _RECIPES[recipe.id] = recipe
    return recipe


def recipes() -> Mapping[str, Recipe]:
    """Give all recipes by id, read-only."""
    return MappingProxyType(dict(sorted(_RECIPES.items())))


def get_recipe(id: str) -> Recipe:
    """Look a recipe up.

    Args:
        id: the recipe's id.

    Raises:
        DatasetError: if there is none; the message lists those there are.
    """
    if id in _RECIPES:
        return _RECIPES[id]
    raise DatasetError(f"expected a recipe's id, found {id!r}; {_known(id)}")


def default_root() -> Path:
    """Tell where recipes' datasets are built: ``$BENCHMARL_SSD_ROOT``, else the user's cache."""
    chosen = os.environ.get(ROOT_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("benchmarl-ssd")


def recipe_path(
    id: str,
    root: str | os.PathLike[str] | None = None,
    transitions: int | None = None,
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Tell where a recipe's dataset lies once it is built.

    Args:
        id, root, transitions, seed: as for :func:`build`.

    Raises:
        DatasetError: if there is no such recipe.
    """
    recipe = get_recipe(id).configured(config)
    folder = default_root() if root is None else Path(root).expanduser()
    return folder.joinpath(*id.split("/")) / recipe.folder_name(transitions, seed)


def build(
    id: str,
    root: str | os.PathLike[str] | None = None,
    transitions: int | None = None,
    seed: int = 0,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Build a recipe's dataset, unless it is there already.

    Two processes may build the same dataset at once: one of the two is kept.

    Args:
        id: the recipe's id.
        root: the folder for all recipes' datasets; None takes :func:`default_root`.
        transitions: stop with the first episode that reaches this many, > 0; None for the
            recipe's own number.
        seed: the recording's seed, >= 0.
        progress: whether to draw a progress bar on stderr, if that is a terminal.
        config: options of the recipe's task that differ from its defaults, such as
            ``{"n_agents": 8}``.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: if there is no such recipe, a number is out of range, or what is there
            already is damaged.
    """
    recipe = get_recipe(id).configured(config)
    count = recipe.transitions if transitions is None else transitions
    if count < 1 or seed < 0:
        raise DatasetError(
            f"expected transitions of at least 1 and a seed of at least 0, found {count} and {seed}"
        )
    path = recipe_path(id, root, count, seed, config)
    if not path.exists():
        try:
            _record(recipe, path, count, seed, progress)
        except DatasetError:
            if not path.exists():  # else another process has built it meanwhile
                raise
    return _checked(path)


def resolve(
    dataset: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Find a dataset by folder or by recipe; a recipe's dataset is built on first use.

    Args:
        dataset: a dataset's folder or a recipe's id.
        root: where recipes' datasets lie; None takes :func:`default_root`.
        config: options of a recipe's task that differ from its defaults.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: if it is neither; the message names both possibilities.
    """
    path, name = Path(dataset).expanduser(), os.fspath(dataset)
    if name not in _RECIPES or (path / METADATA_FILE).exists():
        if path.exists():
            return path
        raise DatasetError(
            f"expected a dataset's folder or a recipe's id, found {name!r}: there is no such "
            f"folder, and {_known(name)}"
        )
    built = recipe_path(name, root, config=config)
    if not built.exists():
        print(f"building the dataset of recipe {name} in {built} (once)", flush=True)
    return build(name, root, config=config)


def _record(recipe: Recipe, path: Path, transitions: int, seed: int, progress: bool) -> None:
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


def _checked(path: Path) -> Path:
    try:
        validate(path, "fast")
    except DatasetError as error:
        raise DatasetError(
            f"{error} (this is a built dataset: remove {path} to build it anew)"
        ) from None
    return path


def _known(id: str) -> str:
    if not _RECIPES:
        return "no recipes are registered"
    close = difflib.get_close_matches(id, _RECIPES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"the recipes are {', '.join(sorted(_RECIPES))}{hint}"
