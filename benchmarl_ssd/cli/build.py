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
    root: Root = None,
    transitions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Record whole episodes up to this many. Default: the recipe's number."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the recording.")] = 0,
) -> None:
    """Build the dataset of a recipe, unless it is there already, and print its folder."""
    from benchmarl_ssd.data.recipes import build as build_recipe

    typer.echo(build_recipe(id, root=root, transitions=transitions, seed=seed))
