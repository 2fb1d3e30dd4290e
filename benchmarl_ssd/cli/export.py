"""``benchmarl-ssd export``: write a dataset as one HDF5 file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The dataset.")],
    out: Annotated[
        Path, typer.Option(metavar="FILE.hdf5", help="File to write; it must not exist.")
    ],
    compress: Annotated[
        bool, typer.Option(help="Compress the values, without loss. It is slower.")
    ] = True,
) -> None:
    """Write a dataset as an HDF5 file with the same keys, such as agents/observation.

    `benchmarl-ssd import hdf5 FILE.hdf5 --out FOLDER` makes the very same dataset of it.
    """
    from benchmarl_ssd.data.exporting import export as export_dataset

    file = export_dataset(folder, out, compress=compress)
    typer.echo(f"written to {out} ({file.stat().st_size / 1e6:,.1f} MB)")
