"""``benchmarl-ssd datasets``: list the recipes."""

from __future__ import annotations

import typer

from benchmarl_ssd.cli.build import Root


def datasets(root: Root = None) -> None:
    """List the recipes, their transitions, and where their datasets are if built."""
    from benchmarl_ssd.data.recipes import recipe_path, recipes

    rows = [("ID", "TRANSITIONS", "DATASET", "WHAT")]
    for id, recipe in recipes().items():
        path = recipe_path(id, root)
        built = str(path) if path.exists() else "not built"
        rows.append((id, str(recipe.transitions), built, recipe.description))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, last in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        typer.echo("  ".join([*padded, last]))
