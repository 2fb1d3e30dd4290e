"""What is known of the task that imported data is of: groups, bounds and reference returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarl.environments.common import TaskClass
from torchrl.envs import Compose, TransformedEnv

from benchmarl_ssd.cli.sources import describe_task, find_task
from benchmarl_ssd.data.importers import ImportBounds, Table
from benchmarl_ssd.data.importers.references import literature
from benchmarl_ssd.data.recipes import recipes
from benchmarl_ssd.data.recording import action_bounds, preserved_random_state

LOGGED = "logged"
"""Environment of tasks that have no simulator."""


@dataclass
class ImportTask:
    """What is known of a task.

    Args:
        description: ``environment``, ``name`` and ``config``.
        group: name of the agents' group.
        agents: the agents' names, or None.
        bounds: of the actions, or None.
        note: what to report about it.
        default: whether its options are its default ones.
    """

    description: dict[str, Any]
    group: str = "agents"
    agents: list[str] | None = None
    bounds: ImportBounds | None = None
    note: str | None = None
    default: bool = True


def resolve_task(
    name: str, overrides: Sequence[str], table: Table, group: str | None
) -> ImportTask:
    """Look a task up, and check that the data can be of it.

    Args:
        name: ``environment/name`` of a BenchMARL task; ``logged/name``, or a name without a slash,
            which means the same, for data without a simulator.
        overrides: options of the task, ``key=value`` each.
        table: the data.
        group: name of the agents' group, or None to take the task's.

    Raises:
        ValueError: if there is no such task, or its agents are not those of the data.

    Example:
        >>> import numpy as np
        >>> from benchmarl_ssd.data.importers.columns import Values
        >>> arrays = {"observation": np.zeros((5, 3, 18)), "action": np.zeros((5, 3, 2))}
        >>> arrays["reward"] = np.zeros(5)
        >>> table = Table({name: Values(name, array) for name, array in arrays.items()})
        >>> resolve_task("mpe/cooperative_navigation", [], table, None).bounds.high.tolist()
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    environment, slash, short = name.rpartition("/")
    if not slash or environment == LOGGED:
        if overrides or not re.fullmatch(r"[a-z0-9_-]+", short):
            raise ValueError(
                f"expected {LOGGED}/NAME without options, NAME of a-z, 0-9, _ and -, found "
                f"{' '.join([name, *overrides])!r}; rename it"
            )
        return ImportTask(
            {"environment": LOGGED, "name": short, "config": {}},
            group or "agents",
            note=f"{LOGGED}/{short}, without a simulator",
        )
    try:
        task = find_task(name, overrides)
    except ValueError as error:
        if overrides:
            raise
        raise ValueError(f"{error}; data without a simulator is --task {LOGGED}/NAME") from None
    found = ImportTask(describe_task(task), group or "agents")
    found.default = task.config == find_task(name).config
    _look_into(task, table, group, found)
    return found


def _look_into(task: TaskClass, table: Table, group: str | None, found: ImportTask) -> None:
    """Build the task's environment, and take from it what the source does not say."""
    name = f"{found.description['environment']}/{found.description['name']}"
    kinds = {False: task.supports_continuous_actions(), True: task.supports_discrete_actions()}
    if not kinds[table.discrete]:
        words = ("continuous", "whole-numbered")
        raise ValueError(
            f"expected {words[not table.discrete]} actions as {name} has, found "
            f"{words[table.discrete]} ones in the source; give another task, or {LOGGED}/NAME"
        )
    with preserved_random_state():
        try:
            env = task.get_env_fun(
                num_envs=1, continuous_actions=not table.discrete, seed=0, device="cpu"
            )()
        # A simulator that is not installed, or not for this machine, can raise anything; what it
        # would tell is then asked of the user, and reported as not known.
        except Exception as error:
            reason = " ".join(str(error).split())[:120]
            found.note = f"{name} cannot be built here ({type(error).__name__}: {reason})"
            return
        try:
            env = TransformedEnv(env, Compose(*task.get_env_transforms(env)))
            groups = {key: list(agents) for key, agents in task.group_map(env).items()}
            chosen = group or (next(iter(groups)) if len(groups) == 1 else "agents")
            if chosen not in groups:
                raise ValueError(
                    f"expected --group to be one of {', '.join(groups)}, the groups of {name}, "
                    f"found {chosen!r}; choose one of these"
                )
            if len(groups[chosen]) != table.agents:
                raise ValueError(
                    f"expected {len(groups[chosen])} agents as {name} has, found {table.agents} "
                    f"in the source; give the task's options, or --task {LOGGED}/NAME"
                )
            found.group, found.agents = chosen, groups[chosen]
            found.note = name
            if len(groups) > 1:
                found.note += f", group {chosen} of {', '.join(groups)}"
            spec = task.observation_spec(env)[chosen]
            keys = [key for key in spec.keys(True, True) if key == "observation"]
            expected = [list(spec[key].shape) for key in keys]
            seen = list(table.columns["observation"].shape[1:])
            if expected and expected[0][-len(seen) :] != seen:
                raise ValueError(
                    f"expected observations {expected[0]} as {name} gives them, found {seen} in "
                    f"the source; it is of another task or version: give the task's options, "
                    f"--strip-agent-ids if it has agents' numbers, or --task {LOGGED}/NAME"
                )
            bounds = action_bounds(env, chosen)
            found.bounds = ImportBounds(bounds["low"], bounds["high"], f"of task {name}")
        finally:
            env.close()


def find_references(
    format: str, task: ImportTask, given: Mapping[str, float | None]
) -> tuple[dict[str, float | None] | None, str | None]:
    """Find the returns that a normalised score takes for 0 (random) and 1 (expert).

    Args:
        format: of the source.
        task: that it is of.
        given: what the user says, None what they do not.

    Returns:
        The references and whose they are; None and None if none are known.
    """
    name, environment = task.description["name"], task.description["environment"]
    known: tuple[dict[str, float | None], str] | None = None
    if task.default:
        known = literature(format, name)
    if known is None and task.default and format == "arrays":
        for recipe in recipes().values():
            if (recipe.environment, recipe.name) == (environment, name) and recipe.references:
                known = dict(recipe.references), "as of the task's recipes"
                break
    said = {key: value for key, value in given.items() if value is not None}
    if not said:
        return known if known is not None else (None, None)
    values = {"random": None, "expert": None, **(known[0] if known else {}), **said}
    return values, "given" if len(said) == 2 or known is None else f"given, or {known[1]}"
