"""Recipes: datasets that are made again on any machine instead of being downloaded."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import platformdirs

from benchmarl_ssd.data.building import RecordingSetup, checked, record_recipe
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import METADATA_FILE

__all__ = [
    "ExpectedReturn",
    "Make",
    "Recipe",
    "RecordingSetup",
    "build",
    "default_root",
    "get_recipe",
    "recipe_path",
    "recipes",
    "register_recipe",
    "resolve",
]

ROOT_VARIABLE = "BENCHMARL_SSD_ROOT"


Make = Callable[[int, dict[str, Any]], RecordingSetup]


@dataclass(frozen=True)
class ExpectedReturn:
    """Episode returns that a recipe's dataset will have, measured once and committed.

    Args:
        mean: their mean.
        standard_error: the mean's standard error.
        standard_deviation: over episodes.
        best: the highest one.
        episodes: how many episodes were measured.
    """

    mean: float
    standard_error: float
    standard_deviation: float
    best: float
    episodes: int


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
        expected_return: what a build's episodes will return, where that was measured.
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
    expected_return: ExpectedReturn | None = None
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
        options = "".join(f"-{key}={_named(self.config[key])}" for key in sorted(self.config))
        # Options are part of the name, shortened to a digest where they would not make a good one.
        if len(options) > 60 or not re.fullmatch(r"[-\w.=]*", options):
            options = f"-{hashlib.sha256(options.encode()).hexdigest()[:12]}"
        return f"v{self.version}-{count}-transitions-seed-{seed}{options}"

    def configured(self, config: Mapping[str, Any] | None) -> Recipe:
        """Give the same recipe for other options of its task.

        Its references and its expected return hold for its own options, so others have none.

        Args:
            config: options by name, which replace the recipe's own; None changes nothing.

        Example:
            >>> recipe = Recipe("toy/left", "Always left.", "toy", "left", make="toy.recipes:left")
            >>> recipe.configured({"n_agents": 8}).folder_name(1000)
            'v1-1000-transitions-seed-0-n_agents=8'
        """
        options = {**self.config, **(config or {})}
        if options == dict(self.config):
            return self
        return dataclasses.replace(self, config=options, references=None, expected_return=None)


def _named(option: Any) -> str:
    """Name an option in a folder's name; a file by what it holds, not by where it lies."""
    if isinstance(option, str):
        file = Path(option).expanduser()
        if file.is_file():
            return f"sha256.{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        if re.search("[-=]", option):  # would read as another option
            return repr(option)
    return str(option)


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
            record_recipe(recipe, path, count, seed, progress)
        except DatasetError:
            if not path.exists():  # else another process has built it meanwhile
                raise
    return checked(path)


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


def _known(id: str) -> str:
    if not _RECIPES:
        return "no recipes are registered"
    close = difflib.get_close_matches(id, _RECIPES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"the recipes are {', '.join(sorted(_RECIPES))}{hint}"
