"""``benchmarl-ssd describe``: what is in a dataset, in numbers and a picture."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from benchmarl_ssd.data.describing import Description
    from benchmarl_ssd.evaluation.coordination_report import Coordination

_BAR = 40
_ACTIONS = ("mean", "std", "min", "max", "at_low", "at_high")


def describe(
    dataset: Annotated[
        str, typer.Argument(metavar="FOLDER_OR_ID", help="A dataset's folder or a recipe's id.")
    ],
    grid_from: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER_OR_ID",
            help="Measure coverage on this dataset's grid, to compare the two.",
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draw it, too, into this file; it must not exist.")
    ] = None,
    coordination: Annotated[
        bool,
        typer.Option(
            "--coordination",
            help="Estimate what agents' actions share given the state; takes a few minutes.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a dataset: returns and scores, lengths, actions, coverage, provenance, size.

    AT LOW and AT HIGH are the shares of actions within a thousandth of the range of their bounds.
    Coverage tells how evenly the dataset fills what it spans: observations on up to three principal
    axes of ten cells each; the effective number of cells is the exponential of their entropy. It
    says nothing of states outside: compare datasets with --grid-from. Coordination is the total
    correlation of the agents' actions given the state, in nats: 0 where they act independently.
    """
    from benchmarl_ssd.data.describing import describe as describe_dataset

    if figure is not None:
        from benchmarl_ssd.evaluation.dataset_figure import check_target, plot_dataset

        check_target(figure)
    folders = [_find(name) for name in (dataset, grid_from) if name is not None]
    grid = describe_dataset(folders[1]).grid if grid_from is not None else None
    found = describe_dataset(folders[0], grid)
    content = found.to_dict() | {"score": scores(found)}
    sections = [
        ("", list(_about(found))),
        ("RETURN", list(_return(content))),
        ("LENGTH", list(_length(found.lengths))),
        ("ACTIONS", list(_actions(found.actions))),
        ("COVERAGE", list(_coverage(found.coverage, grid_from))),
        ("SOURCE", list(_source(found.metadata.source))),
    ]
    if coordination:
        results = _coordination(folders[0])
        content["coordination"] = [result.to_dict() for result in results]
        sections.append(
            ("COORDINATION", [f"  {line}" for r in results for line in f"{r}".split("\n")])
        )
    if figure is not None:
        plot_dataset(found, figure)
    if as_json:
        typer.echo(json.dumps(content, indent=2, allow_nan=False))
        return
    for title, lines in sections:
        typer.echo("\n".join([*([f"\n{title}"] if title else []), *lines]))
    if figure is not None:
        typer.echo(f"\nfigure: {figure}")


def scores(found: Description) -> dict[str, Any] | None:
    """Give normalised scores of a dataset's returns, or None without references.

    Args:
        found: the dataset's description.

    Returns:
        ``mean``, ``best`` and ``quantiles`` with the references they were computed from.
    """
    from benchmarl_ssd.evaluation.episodes import normalised

    references = found.metadata.references
    if normalised(0.0, references) is None:
        return None
    quantiles = found.returns["quantiles"].items()
    return {
        "references": references,
        "mean": normalised(found.returns["mean"], references),
        "best": normalised(found.returns["best"], references),
        "quantiles": {name: normalised(value, references) for name, value in quantiles},
    }


def _find(name: str) -> Path:
    from benchmarl_ssd.data.recipes import resolve

    with contextlib.redirect_stdout(sys.stderr):  # a recipe may say that it is being built
        return resolve(name)


def _coordination(folder: Path) -> list[Coordination]:
    from tqdm import tqdm

    from benchmarl_ssd.evaluation.coordination import coordination

    with tqdm(unit=" steps", file=sys.stderr, disable=not sys.stderr.isatty()) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return coordination(folder, progress=show)


def _about(found: Description) -> Iterator[str]:
    metadata = found.metadata
    counts, task = metadata.counts, metadata.task
    yield str(found.path)
    yield (
        f"  task {task['environment'] + '/' + task['name'] if task else 'unknown'}, "
        f"recipe {metadata.id or 'none'}"
    )
    yield (
        f"  {counts['transitions']:,} transitions in {counts['episodes']:,} episodes "
        f"({counts['terminated']:,} terminated, {counts['truncated']:,} truncated)"
    )
    size = metadata.size
    yield f"  {size / 1e6:,.1f} MB, checksum {metadata.checksum[:16]}"
    for group, agents in metadata.groups.items():
        yield f"  group {group}: {', '.join(agents)}"
    for name, info in metadata.tensors.items():
        yield f"    {name}: {info.dtype} {list(info.shape)}"


def _return(content: Mapping[str, Any]) -> Iterator[str]:
    returns, score = content["return"], content["score"]
    error = returns["standard_error"]
    yield (
        f"  mean {returns['mean']:.2f}"
        + (f" (standard error {error:.2f})" if error is not None else "")
        + f", standard deviation {returns['std']:.2f}, best {returns['best']:.2f}"
    )
    yield f"  {_quantiles(returns['quantiles'])}"
    if score:
        references = score["references"]
        yield (
            f"  score: mean {score['mean']:.1f}, best {score['best']:.1f}"
            f" (0 is {references['random']:g}, random; 100 is {references['expert']:g}, expert)"
        )
    else:
        yield "  no score: the dataset has no references"
    yield from _histogram(returns["histogram"])


def _length(lengths: Mapping[str, Any]) -> Iterator[str]:
    yield f"  mean {lengths['mean']:.2f} steps, standard deviation {lengths['std']:.2f}"
    yield f"  {_quantiles(lengths['quantiles'])}"
    yield from _histogram(lengths["histogram"])


def _quantiles(quantiles: Mapping[str, float]) -> str:
    return "quantiles " + ", ".join(f"{float(q):.0%} {v:.2f}" for q, v in quantiles.items())


def _histogram(histogram: Mapping[str, list[float]]) -> Iterator[str]:
    edges, counts = histogram["edges"], histogram["counts"]
    width = max(len(f"{edge:.2f}") for edge in edges)
    most = max(counts)
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        # A bin with anything in it shows.
        bar = "#" * math.ceil(_BAR * count / most)
        yield f"  {low:{width}.2f} to {high:{width}.2f}  {bar:<{_BAR}} {count:,.0f}"


def _actions(actions: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    titles = ["GROUP", "AGENT", "ACTION", *(name.upper().replace("_", " ") for name in _ACTIONS)]
    rows = [titles]
    for group, found in actions.items():
        for agent, values in enumerate(found["mean"]):
            for index in range(len(values)):
                cells = [found[name][agent][index] for name in _ACTIONS]
                shown = [f"{v:.2f}" for v in cells[:4]] + [f"{v:.1%}" for v in cells[4:]]
                rows.append([group, str(agent), str(index), *shown])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  " + "  ".join([row[0].ljust(widths[0]), *cells])


def _coverage(coverage: Mapping[str, Any], grid_from: str | None) -> Iterator[str]:
    on = f" on the grid of {grid_from}" if grid_from else ""
    yield (
        f"  {coverage['effective_cells']:.1f} effective cells of {coverage['cells']:,}{on}, "
        f"{coverage['occupied']:,} occupied ({coverage['points']:,} points, "
        f"{coverage['outside']:.1%} outside)"
    )
    yield (
        f"  {coverage['axes']} principal axes with {coverage['explained']:.0%} of the variance; "
        f"{coverage['effective_dimensions']:.1f} effective dimensions of "
        f"{coverage['dimensions']} varying ones"
    )
    yield f"  {coverage['distinct_starts']:,} distinct first observations"


def _source(source: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    for name, value in source.items():
        if name == "versions" and isinstance(value, Mapping):
            text = ", ".join(f"{k} {v}" for k, v in value.items() if v)
            yield f"{indent}{name}: {text}"
        elif isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _source(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for entry in value:
                yield f"{indent}{name}:"
                yield from _source(entry, indent + "  ")
        else:
            yield f"{indent}{name}: {_short(value)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
