"""The cells of a grid: one stock run each, in a folder of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarl.environments import task_config_registry

from benchmarl_ssd.algorithms import algorithm_config_registry
from benchmarl_ssd.comparison.composing import composed, stock_configs
from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.grid import (
    Named,
    Override,
    check_targets,
    literal,
    overrides_for,
    recipe_label,
)
from benchmarl_ssd.data.layout import METADATA_FILE
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.recipes import get_recipe, recipes

LOGGED = "logged/dataset"


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Args:
        algorithm: the algorithm's label.
        task: the task, ``environment/name``.
        dataset: the dataset's label.
        seed: the run's seed.
        folder: where it runs: ``OUT/<task>/<dataset>/<algorithm>/seed-<k>``.
        overrides: what ``python -m benchmarl.run`` is given.
        options: those of the overrides that the user asked for.
        config: the configuration composed from them.
        checksum: the dataset's checksum, if the dataset is there yet.
    """

    algorithm: str
    task: str
    dataset: str
    seed: int
    folder: Path
    overrides: list[str]
    options: list[str]
    config: dict[str, Any]
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.task}/{self.dataset}/{self.algorithm}/seed-{self.seed}"


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset of the grid and the task that runs on it are evaluated on.

    Args:
        label: its name in folders and tables.
        given: as it was given.
        value: a recipe's id or the absolute path of a folder.
        task: ``environment/name``.
        options: overrides that make the task the one that was recorded.
    """

    label: str
    given: str
    value: str
    task: str
    options: list[str]

    @property
    def key(self) -> str:
        """Which option takes the dataset: the task's own where it is the task."""
        return "task.dataset" if self.task == LOGGED else "algorithm.dataset"


def choose_dataset(named: Named, task: str | None = None) -> DatasetChoice:
    """Find a dataset and its task.

    Args:
        named: a recipe's id or a folder, and its label if it was given one.
        task: the task to evaluate on, ``environment/name``; None takes the one that the dataset
            says it is of.

    Raises:
        ComparisonError: if the task is unknown, or none is named.
        DatasetError: if there is no such dataset.

    Example:
        >>> choice = choose_dataset(Named("", "coordination/bandit/modes"))
        >>> choice.task, choice.label
        ('coordination/bandit', 'modes')
    """
    folder = Path(named.value).expanduser()
    if named.value in recipes() and not (folder / METADATA_FILE).exists():
        recipe = get_recipe(named.value)
        origin, recorded = f"{recipe.environment}/{recipe.name}", dict(recipe.config)
        value, label = recipe.id, recipe_label(recipe.id, origin)
    elif folder.exists():
        folder = folder.resolve()
        about = DatasetMetadata.read(folder).task or {"environment": "logged", "name": "dataset"}
        recorded = dict(about.get("config") or {})
        origin = f"{about['environment']}/{about['name']}".lower()
        if origin.startswith("logged/"):  # no simulator: the task is the dataset
            origin, recorded = LOGGED, {}
        value, label = str(folder), folder.name
    else:
        get_recipe(named.value)  # raises, and says what there is
    chosen = (task or origin).lower()
    if chosen not in task_config_registry:
        raise ComparisonError(
            f"expected a task that BenchMARL knows, found {chosen} for dataset {named.value}; "
            f"name one with --task, such as --task {LOGGED} to do without a simulator"
        )
    options = _task_options(chosen, recorded) if chosen == origin else []
    return DatasetChoice(named.label or label, named.value, value, chosen, options)


def _task_options(task: str, recorded: dict[str, Any]) -> list[str]:
    defaults = task_config_registry[task].get_from_yaml().config
    return [
        f"task.{key}={literal(value)}"
        for key, value in recorded.items()
        if key not in defaults or defaults[key] != value
    ]


def plan(
    out: Path,
    algorithms: Sequence[Named],
    datasets: Sequence[DatasetChoice],
    seeds: Sequence[int],
    overrides: Sequence[Override] = (),
) -> list[Cell]:
    """Lay the cells of a grid out.

    Args:
        out: the folder of the whole comparison.
        algorithms: names of this package's algorithms.
        datasets: as :func:`choose_dataset` found them.
        seeds: of the runs.
        overrides: Hydra's, for all cells or for some.

    Returns:
        The cells, seeds innermost; nothing is written or built.

    Raises:
        ComparisonError: if a name is unknown, two cells have one folder, or Hydra does not take
            an override.
    """
    for named in algorithms:
        if named.value not in algorithm_config_registry:
            raise ComparisonError(
                f"expected algorithms of {', '.join(algorithm_config_registry)}; "
                f"found {named.value!r}"
            )
    check_targets(overrides, [each.label for each in algorithms] + _names(datasets))
    out = out.expanduser().resolve()
    cells: dict[Path, Cell] = {}
    with stock_configs():
        for choice in datasets:
            for named in algorithms:
                for cell in _group(out, named, choice, seeds, overrides):
                    if cells.setdefault(cell.folder, cell) is not cell:
                        raise ComparisonError(
                            f"expected datasets of different names, found two for {cell.folder}; "
                            "give one another name: --datasets NAME=FOLDER"
                        )
    return list(cells.values())


def _names(datasets: Iterable[DatasetChoice]) -> list[str]:
    return [name for each in datasets for name in (each.task, each.given, each.label)]


def _group(
    out: Path,
    named: Named,
    choice: DatasetChoice,
    seeds: Sequence[int],
    overrides: Sequence[Override],
) -> list[Cell]:
    asked = overrides_for(overrides, [named.label, choice.task, choice.given, choice.label])
    keys = {Override(text).key for text in asked}
    base = [f"algorithm={named.value}", f"task={choice.task}"]
    base += [] if "experiment" in keys else ["experiment=offline"]
    base += [f"{choice.key}={literal(choice.value)}"]
    base += [option for option in choice.options if Override(option).key not in keys]
    config = composed([*base, *asked])
    folder = out.joinpath(*choice.task.split("/"), choice.label, named.label)
    return [
        Cell(
            algorithm=named.label,
            task=choice.task,
            dataset=choice.label,
            seed=seed,
            folder=folder / f"seed-{seed}",
            overrides=[*base, f"seed={seed}", *asked],
            options=asked,
            config={**config, "seed": seed},
        )
        for seed in seeds
    ]


def write_plan(cells: Iterable[Cell], path: Path) -> None:
    """Write cells for the processes that run them.

    Args:
        cells: in the order that they are counted in.
        path: the file.
    """
    content = [{**dataclasses.asdict(cell), "folder": str(cell.folder)} for cell in cells]
    path.write_text(json.dumps(content), encoding="utf-8")


def read_plan(path: Path) -> list[Cell]:
    """Read what :func:`write_plan` wrote.

    Args:
        path: the file.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    return [Cell(**{**each, "folder": Path(each["folder"])}) for each in content]
