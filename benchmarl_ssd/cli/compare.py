"""``benchmarl-ssd compare``: algorithms x datasets x seeds, as stock runs side by side."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.comparison.planning import Cell
    from benchmarl_ssd.comparison.state import State


def compare(
    algorithms: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Such as ssd,bc; NAME=ssd runs ssd once more under that name."
        ),
    ],
    datasets: Annotated[
        str,
        typer.Option(metavar="LIST", help="Ids of recipes or folders; NAME=FOLDER names one."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the comparison; may hold a part of it.")],
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Such as 0,1,2 or 0-4.")] = "0-4",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--override",
            "-o",
            metavar="[TARGET:]KEY=VALUE",
            help="An override of Hydra's for every run, or for those of an algorithm, a task or a "
            "dataset. Repeatable; of one key the last counts.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Task to evaluate on. Default: each dataset's own.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", min=1, help="Runs at a time. Default: one per core.", show_default=False
        ),
    ] = None,
    launcher: Annotated[
        str,
        typer.Option(
            help="A launcher of Hydra's: joblib, basic (one after another), submitit_slurm, ray."
        ),
    ] = "joblib",
    launcher_options: Annotated[
        list[str] | None,
        typer.Option(
            "--launcher-option",
            "-l",
            metavar="KEY=VALUE",
            help="An option of the launcher, such as partition=cpu. Repeatable.",
        ),
    ] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Print the runs and how far they are, and run none.")
    ] = False,
) -> None:
    """Run every algorithm on every dataset with every seed; the same command again goes on.

    Each run is one of `python -m benchmarl.run` in OUT/<task>/<dataset>/<algorithm>/seed-<k>, with
    one thread unless OMP_NUM_THREADS says more, and is done when its summary.json is there. Done
    ones are skipped if they were configured alike, half ones are put aside and run again.
    """
    from benchmarl_ssd.comparison import grid, planning
    from benchmarl_ssd.comparison.launch import launch
    from benchmarl_ssd.comparison.state import examine

    cells = planning.plan(
        out,
        grid.parse_algorithms(algorithms),
        [planning.choose_dataset(named, task) for named in grid.parse_datasets(datasets)],
        grid.parse_seeds(seeds),
        [grid.parse_override(text) for text in overrides or []],
    )
    cells = _with_checksums(cells, build=not list_only)
    states = [examine(cell) for cell in cells]
    if list_only:
        for cell, state in zip(cells, states, strict=True):
            typer.echo(f"{state.status:11} {cell.name}  {state.detail}".rstrip())
        typer.echo(_count(states))
        return
    _refuse_different(cells, states)
    todo = [c for c, s in zip(cells, states, strict=True) if s.status not in ("done", "running")]
    typer.echo(f"{_count(states)}; running {len(todo)} in {out}")
    problem = None
    if todo:
        try:
            launch(todo, out, launcher, jobs, launcher_options or [])
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on where this one stopped", err=True)
            raise typer.Exit(1) from None
        except (ValueError, OSError, ImportError):
            raise
        except Exception as error:  # a launcher's own: some runs may be done nevertheless
            problem = f"; the launcher ended with {type(error).__name__}: {error}"
    _conclude(cells, [examine(cell) for cell in cells], problem or "")


def _with_checksums(cells: list[Cell], build: bool) -> list[Cell]:
    from benchmarl.environments import task_config_registry

    from benchmarl_ssd.data.layout import METADATA_FILE
    from benchmarl_ssd.data.metadata import DatasetMetadata
    from benchmarl_ssd.data.recipes import get_recipe, recipe_path, recipes, resolve
    from benchmarl_ssd.environments import changed_options

    known: dict[str, str | None] = {}

    def checksum(cell: Cell) -> str | None:
        name = cell.config["algorithm"]["dataset"] or cell.config["task"]["dataset"]
        options = None
        if name in recipes() and not (Path(name) / METADATA_FILE).exists():
            recipe = get_recipe(name)
            # As the run itself will: for the options of the task that the recipe is of.
            if cell.task == f"{recipe.environment}/{recipe.name}":
                task = task_config_registry[cell.task].get_task(dict(cell.config["task"]))
                options = changed_options(task)
            folder = recipe_path(name, config=options)
        else:
            folder = Path(name)
        if str(folder) not in known:
            if build:  # once, before many runs would
                folder = resolve(name, config=options)
            there = (folder / METADATA_FILE).exists()
            known[str(folder)] = DatasetMetadata.read(folder).checksum if there else None
        return known[str(folder)]

    return [dataclasses.replace(cell, checksum=checksum(cell)) for cell in cells]


def _count(states: list[State]) -> str:
    counts = Counter(state.status for state in states)
    parts = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    return f"{len(states)} runs: {parts}"


def _refuse_different(cells: list[Cell], states: list[State]) -> None:
    found = [(c, s) for c, s in zip(cells, states, strict=True) if s.status == "different"]
    if found:
        cell, state = found[0]
        raise ValueError(
            f"expected finished runs of the same configuration, found {len(found)} of another; "
            f"{cell.folder} has {state.detail}: choose another --out or put that folder aside"
        )


def _conclude(cells: list[Cell], states: list[State], problem: str) -> None:
    left = [(c, s) for c, s in zip(cells, states, strict=True) if s.status != "done"]
    typer.echo(_count(states))
    if not left:
        return
    for cell, state in left:
        typer.echo(f"{state.status:11} {cell.folder}  {state.detail}".rstrip(), err=True)
    raise ValueError(
        f"{len(left)} of {len(cells)} runs are not done{problem}; what failed says why in its "
        "error.txt, and the same command runs again what is left"
    )
