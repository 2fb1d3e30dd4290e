"""``benchmarl-ssd build``: make a recipe's dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[
    Path | None,
    typer.Option(
        help="Folder for all recipes' datasets. Default: $BENCHMARL_SSD_ROOT, else a cache.",
        show_default=False,
    ),
]


def build(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="The recipe; `benchmarl-ssd datasets` lists them.")
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of its task, such as n_agents=8."),
    ] = None,
    root: Root = None,
    transitions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Record whole episodes, at least this many. Default: the recipe's number."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the recording.")] = 0,
) -> None:
    """Build the dataset of a recipe, unless it is there already, and print its folder."""
    from benchmarl_ssd.cli.sources import find_task
    from benchmarl_ssd.data.recipes import build as build_recipe
    from benchmarl_ssd.data.recipes import get_recipe
    from benchmarl_ssd.environments import changed_options

    config = None
    if options:
        recipe = get_recipe(id)
        config = changed_options(find_task(f"{recipe.environment}/{recipe.name}", options))
    path = build_recipe(id, root=root, transitions=transitions, seed=seed, config=config)
    typer.echo(path)
