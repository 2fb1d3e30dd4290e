"""``benchmarl-ssd datasets``: list the recipes."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmarl_ssd.cli.build import Root

if TYPE_CHECKING:
    from benchmarl_ssd.data.recipes import Recipe

_TITLES = ("ID", "TRANSITIONS", "SIZE", "MEAN", "BEST", "RANDOM", "EXPERT", "BUILT")


def datasets(
    root: Root = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with unrounded numbers, folders and errors.")
    ] = False,
) -> None:
    """List the recipes by task: size and episode returns of their datasets, and which are built.

    What is built is listed as it was measured, what is not as it is expected, marked with ~. RANDOM
    and EXPERT are the returns that a normalised score takes for 0 and 1.
    """
    from benchmarl_ssd.data.recipes import default_root, recipes

    found = [describe(recipe, root) for recipe in recipes().values()]
    found.sort(key=lambda entry: (entry["task"], entry["id"]))
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    rows = [_row(entry) for entry in found]
    widths = [max(map(len, column)) for column in zip(_TITLES, *rows, strict=True)]
    typer.echo(_line(_TITLES, widths))
    entries = zip((entry["task"] for entry in found), rows, strict=True)
    for task, group in groupby(entries, key=lambda entry: entry[0]):
        typer.echo(f"\ntask={task}")
        for _, row in group:
            typer.echo(_line(row, widths))
    typer.echo(f"\n~ expected, not built yet. Datasets lie in {root or default_root()}")


def describe(recipe: Recipe, root: Path | None) -> dict[str, Any]:
    """Tell what is known of a recipe's dataset, of its own size, with seed 0.

    Args:
        recipe: the recipe.
        root: the folder for all recipes' datasets; None takes the default one.

    Returns:
        What ``--json`` prints: ``return`` is the built dataset's, or else the expected one with
        ``return_is`` ``"expected"``; ``built`` is None if what is there is damaged, ``error``
        then says how.
    """
    from benchmarl_ssd.data.errors import DatasetError
    from benchmarl_ssd.data.metadata import DatasetMetadata
    from benchmarl_ssd.data.recipes import recipe_path

    path, expected = recipe_path(recipe.id, root), recipe.expected_return
    entry: dict[str, Any] = {
        "id": recipe.id,
        "task": f"{recipe.environment}/{recipe.name}",
        "description": recipe.description,
        "transitions": recipe.transitions,
        "bytes": None,
        "return": {"mean": expected.mean, "best": expected.best} if expected else None,
        "return_is": "expected" if expected else None,
        "references": dict(recipe.references) if recipe.references else None,
        "built": path.exists(),
        "path": str(path),
        "error": None,
    }
    if not path.exists():
        return entry
    try:
        metadata = DatasetMetadata.read(path)
    except DatasetError as error:
        return entry | {"built": None, "error": str(error)}
    returns = metadata.episode_return
    return entry | {
        "transitions": metadata.transitions,
        "bytes": metadata.size,
        "return": {"mean": returns["mean"], "best": returns["max"]},
        "return_is": "measured",
        "references": metadata.references,
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    mark = "~" if entry["return_is"] == "expected" else ""
    returns, references = entry["return"] or {}, entry["references"] or {}
    size = entry["bytes"]
    return (
        entry["id"],
        f"{entry['transitions']:,}",
        "-" if size is None else f"{size / 1e6:,.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB",
        *(mark + _number(returns[name]) if returns else "-" for name in ("mean", "best")),
        *(_number(references.get(name)) for name in ("random", "expert")),
        {True: "yes", False: "no", None: "damaged"}[entry["built"]],
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    columns = list(zip(cells, widths, strict=True))
    numbers = (cell.rjust(width) for cell, width in columns[1:-1])
    return "  ".join([cells[0].ljust(widths[0]), *numbers, cells[-1]])
