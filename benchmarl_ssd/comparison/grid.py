"""What is compared: names, seeds and overrides as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarl_ssd.comparison.errors import ComparisonError

_LABEL = re.compile(r"[A-Za-z0-9][\w.+-]*")
_OVERRIDE = re.compile(
    r"(?:(?P<target>[^=:{}\[\]'\"]+):)?(?P<override>[+~]*(?P<key>[^=]+)=.*)", re.S
)
_MAX_SEEDS = 1000

# What the grid itself sets, and how to say it there.
_TAKEN = {
    "algorithm": "--algorithms",
    "task": "--task",
    "seed": "--seeds",
    "algorithm.dataset": "--datasets",
    "task.dataset": "--datasets",
    "experiment.save_folder": "--out",
    "experiment.restore_file": "benchmarl.resume, on the run's own folder",
}


@dataclass(frozen=True)
class Named:
    """Something of the grid and the name it has there.

    Args:
        label: its name in folders and tables.
        value: an algorithm of BenchMARL's registry, or a recipe's id or folder of a dataset.
    """

    label: str
    value: str


@dataclass(frozen=True)
class Override:
    """One Hydra override and the cells it is for.

    Args:
        text: as Hydra takes it, such as ``experiment.gamma=0.9``.
        target: the algorithm's label, the task or the dataset it is for; None for all.
    """

    text: str
    target: str | None = None

    @property
    def key(self) -> str:
        """What is set, without Hydra's marks."""
        return self.text.lstrip("+~").partition("=")[0]


def parse_algorithms(text: str) -> list[Named]:
    """Read ``ssd,bc,marginal=ssd``: names of algorithms, with a label of their own or without.

    Args:
        text: comma-separated ``ALGORITHM`` or ``LABEL=ALGORITHM``.

    Raises:
        ComparisonError: if there is nothing, a label is no good file name or is given twice.

    Example:
        >>> [(each.label, each.value) for each in parse_algorithms("ssd,marginal=ssd")]
        [('ssd', 'ssd'), ('marginal', 'ssd')]
    """
    found = []
    for part in _parts(text, "--algorithms"):
        label, _, value = part.rpartition("=")
        found.append(Named(_label(label or value, "--algorithms"), value))
    _check_unique([each.label for each in found], "--algorithms")
    return found


def parse_datasets(text: str) -> list[Named]:
    """Read datasets: ids of recipes or folders, where ``LABEL=FOLDER`` gives one another name.

    Args:
        text: comma-separated. A dataset without a label is named after its folder; for a recipe
            the label is left empty here, since it depends on the task.

    Raises:
        ComparisonError: if there is nothing, a label is no good file name, or a dataset is given
            twice.

    Example:
        >>> parse_datasets("coordination/bandit/modes,mine=logs/2024")
        [Named(label='', value='coordination/bandit/modes'), Named(label='mine', value='logs/2024')]
    """
    found = []
    for part in _parts(text, "--datasets"):
        label, equals, value = part.partition("=")
        if equals and _LABEL.fullmatch(label) and value and not Path(part).exists():
            found.append(Named(label, value))
        else:
            found.append(Named("", part))
    _check_unique([each.value for each in found], "--datasets")
    return found


def parse_seeds(text: str) -> list[int]:
    """Read ``0,1,2`` or ``0-4,9``.

    Args:
        text: comma-separated numbers and ranges, at least 0, each seed once.

    Raises:
        ComparisonError: if it is something else.

    Example:
        >>> parse_seeds("0-2,7")
        [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in _parts(text, "--seeds"):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        last = int(match[2] or match[1]) if match else -1
        if match is None or not int(match[1]) <= last < int(match[1]) + _MAX_SEEDS:
            raise ComparisonError(
                f"expected --seeds such as 0,1,2 or 0-4, found {part!r}; give whole numbers of at "
                f"least 0, ranges upwards and of at most {_MAX_SEEDS} seeds"
            )
        seeds += range(int(match[1]), last + 1)
    _check_unique([str(seed) for seed in seeds], "--seeds")
    return seeds


def parse_override(text: str) -> Override:
    """Read ``experiment.gamma=0.9``, or ``ssd:algorithm.beta=1`` for some of the cells only.

    Args:
        text: an override of Hydra's, after ``TARGET:`` if it is not for all cells. A target is an
            algorithm's label, a task or a dataset, as it is given in the grid.

    Raises:
        ComparisonError: if it is no ``KEY=VALUE``, or sets what the grid sets.

    Example:
        >>> parse_override("ssd:algorithm.beta=1")
        Override(text='algorithm.beta=1', target='ssd')
    """
    match = _OVERRIDE.fullmatch(text.strip())
    if match is None:
        raise ComparisonError(
            f"expected an override KEY=VALUE or TARGET:KEY=VALUE, found {text!r}; "
            "for example -o experiment.gamma=0.9 or -o ssd:algorithm.beta=1"
        )
    key = match["key"]
    if key in _TAKEN or key.startswith("hydra"):
        instead = _TAKEN.get(key, "--launcher and --launcher-option")
        raise ComparisonError(
            f"expected overrides of what the grid leaves open, found {text!r}; use {instead}"
        )
    return Override(match["override"], match["target"])


def overrides_for(overrides: Iterable[Override], targets: Sequence[str]) -> list[str]:
    """Choose the overrides of one cell, in the order given; of one key the last wins.

    Args:
        overrides: all of them.
        targets: the names that the cell goes by.

    Example:
        >>> given = [Override("a.b=1"), Override("a.b=2", "ssd"), Override("a.c=3", "bc")]
        >>> overrides_for(given, ["ssd", "coordination/bandit"])
        ['a.b=2']
    """
    chosen: dict[str, str] = {}
    for override in overrides:
        if override.target is None or override.target in targets:
            chosen.pop(override.key, None)
            chosen[override.key] = override.text
    return list(chosen.values())


def check_targets(overrides: Iterable[Override], targets: Iterable[str]) -> None:
    """Check that every override is for something in the grid.

    Args:
        overrides: all of them.
        targets: every name in the grid.

    Raises:
        ComparisonError: if one is for nothing, which would be a spelling mistake.
    """
    known = sorted(set(targets))
    for override in overrides:
        if override.target is not None and override.target not in known:
            raise ComparisonError(
                f"expected overrides for {', '.join(known)}; found one for "
                f"{override.target!r} ({override.text})"
            )


def recipe_label(id: str, task: str) -> str:
    """Name a recipe's dataset among those of its task.

    Args:
        id: the recipe's id.
        task: ``environment/name``.

    Example:
        >>> recipe_label("coordination/bandit/modes", "coordination/bandit")
        'modes'
    """
    return id.removeprefix(f"{task}/").replace("/", "-")


def literal(value: Any) -> str:
    """Write a value as an override of Hydra's reads it.

    Args:
        value: None, a number, a text, or lists and dicts of such.

    Example:
        >>> literal({"n_agents": [2, 4], "name": "it's", "flag": True, "nothing": None})
        "{n_agents:[2,4],name:'it\\\\'s',flag:true,nothing:null}"
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(literal, value)) + "]"
    text = str(value)
    # Hydra's grammar: only a run of backslashes before a quote is an escape, and it is doubled.
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    tail = len(text) - len(text.rstrip("\\"))
    return f"'{text}{text[len(text) - tail :]}'"


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ComparisonError(f"expected {option} separated by commas, found {text!r}")
    return parts


def _label(text: str, option: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ComparisonError(
            f"expected {option} with names of letters, digits and . _ + -, found {text!r}"
        )
    return text


def _check_unique(names: Sequence[str], option: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ComparisonError(f"expected {option} without repetition, found {twice[0]} twice")
