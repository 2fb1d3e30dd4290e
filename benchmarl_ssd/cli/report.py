"""``benchmarl-ssd report``: what runs have achieved, in tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUNS...", help="Folders, searched for summary.json, and .jsonl result files."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.md, .csv, .json and figures; may hold an earlier report.",
            show_default=False,
        ),
    ] = None,
    algorithms: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Only these, in this order.", show_default=False),
    ] = None,
    collect: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Add the runs to this .jsonl file, one summary per line, and do nothing else.",
            show_default=False,
        ),
    ] = None,
    same_recipe: Annotated[
        bool,
        typer.Option(
            "--same-recipe",
            help="Take datasets that one recipe built on different machines as one, if their mean "
            "returns are the same to a thousandth.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    repetitions: Annotated[
        int, typer.Option(min=1, help="Resamples of the bootstrap behind every interval.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
) -> None:
    """Report on runs: interquartile means with 95 % intervals, raw and normalised, by rliable.

    Runs that differ in budget, dataset, references or evaluation are refused, not averaged, and
    returns that were estimated without a simulator are kept apart from played ones. A .jsonl file
    holds what a report needs, so that results can be kept without their run folders.
    """
    from benchmarl_ssd.comparison.content import describe, to_json
    from benchmarl_ssd.comparison.groups import grouped
    from benchmarl_ssd.comparison.report import check_folder, write_report
    from benchmarl_ssd.comparison.results import collect as keep
    from benchmarl_ssd.comparison.results import only, read_results
    from benchmarl_ssd.comparison.statistics import Bootstrap
    from benchmarl_ssd.comparison.tables import markdown

    results = read_results(runs)
    if algorithms is not None:
        results = only(results, algorithms.split(","))
    if collect is not None:
        if out is not None or as_json:
            raise ValueError("expected --collect alone, found it with --out or --json")
        added = keep(results, collect)
        typer.echo(f"{len(results)} runs, {added} of them new in {collect}")
        return
    if out is not None:
        check_folder(out)
    groups, bootstrap = grouped(results, same_recipe), Bootstrap(repetitions, seed)
    content = describe(groups, bootstrap)
    if out is not None:
        for path in write_report(content, groups, bootstrap, out):
            typer.echo(f"written {path}", err=True)
    typer.echo(to_json(content) if as_json else markdown(content), nl=as_json)
