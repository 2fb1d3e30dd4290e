"""A report's text: Markdown for people, CSV with a line per run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarl_ssd.comparison.groups import Group
from benchmarl_ssd.comparison.results import PLAYED
from benchmarl_ssd.comparison.state import dataset_of

_NOTHING = "-"


def markdown(content: dict[str, Any]) -> str:
    """Write a report as Markdown.

    Args:
        content: what :func:`~benchmarl_ssd.comparison.content.describe` computed.
    """
    bootstrap = content["bootstrap"]
    lines = [
        "Interquartile means over seeds, of the last parameters, and in brackets their "
        f"{content['confidence']:.0%} intervals by the stratified bootstrap "
        f"({bootstrap['repetitions']} resamples, seed {bootstrap['seed']}; rliable). "
        "`best` is the best evaluation during training, played again: a choice in hindsight.",
    ]
    for dataset in content["datasets"]:
        lines += ["", *_dataset(dataset)]
    lines += [*_overall(content["overall"]), *_improvement(content)]
    if content["notes"]:
        lines += ["", *(f"* {note}" for note in content["notes"])]
    return "\n".join(lines) + "\n"


def _dataset(dataset: dict[str, Any]) -> Iterator[str]:
    yield f"### {dataset['task']}, {dataset['dataset']}"
    yield ""
    yield ", ".join(_conditions(dataset)) + "."
    yield ""
    played = dataset["kind"] == PLAYED
    if played:
        head = ["algorithm", "seeds", "return", "normalised", "best", "success", "training"]
    else:
        head = ["algorithm", "seeds", "return, estimated by FQE", "action distance", "training"]
    yield from _header(head)
    for row in dataset["rows"]:
        cells = [row["algorithm"], str(len(row["seeds"])), _estimate(row["return"], ".4g")]
        if played:
            best = row["best"]
            score = "" if not best or best["normalised"] is None else f" ({best['normalised']:.0f})"
            cells += [
                _estimate(row["normalised"], ".1f"),
                f"{best['return']:.4g}{score}" if best else _NOTHING,
                _number(row["success_rate"], ".0%"),
            ]
        else:
            cells.append(_number(row["action_distance"], ".3g"))
        yield _line([*cells, _number(row["train_seconds"], ".0f", " s")])
    data = dataset["data"]
    if data:
        cells = ["*the data*", "", *(_data_cell(data, name) for name in ("return", "normalised"))]
        yield _line(cells[: 4 if played else 3] + [""] * (len(head) - (4 if played else 3)))


def _conditions(dataset: dict[str, Any]) -> Iterator[str]:
    batch = dataset["batch_size"]
    yield f"{dataset['steps']} optimiser steps" + (f" of {batch} transitions" if batch else "")
    if dataset["episodes"]:
        yield f"{dataset['episodes']} episodes a run"
    references = (dataset["data"] or {}).get("references") or {}
    for name, score in (("random", 0), ("expert", 100)):
        if references.get(name) is not None:
            yield f"{name} ({score}) is {references[name]:.4g}"


def _data_cell(data: dict[str, Any], name: str) -> str:
    mean, best = data["mean"][name], data["best"][name]
    form = ".4g" if name == "return" else ".1f"
    return _NOTHING if mean is None else f"{mean:{form}} (best {best:{form}})"


def _overall(overall: dict[str, Any] | None) -> Iterator[str]:
    if overall is None:
        return
    yield from ("", "### All datasets", "")
    names = "; ".join(f"{task}, {dataset}" for task, dataset in overall["datasets"])
    yield f"Normalised scores over {len(overall['datasets'])} datasets: {names}."
    yield ""
    yield from _header(["algorithm", "runs on each", "normalised"])
    for row in overall["rows"]:
        yield _line([row["algorithm"], str(row["runs"]), _estimate(row["normalised"], ".1f")])


def _improvement(content: dict[str, Any]) -> Iterator[str]:
    if not content["improvement"]:
        return
    yield from ("", "### Probability of improvement", "")
    yield "How often a run of X is better than one of Y on the same dataset; 50 % is no difference."
    yield ""
    yield from _header(["X", "Y", "datasets", "runs on each", "P(X > Y)"])
    for pair in content["improvement"]:
        runs = " and ".join(map(str, pair["runs"]))
        yield _line([pair["x"], pair["y"], str(pair["datasets"]), runs, _estimate(pair, ".0%")])


def _header(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _estimate(found: dict[str, Any] | None, form: str) -> str:
    if found is None:
        return _NOTHING
    if found["low"] is None:
        return f"{found['value']:{form}}"
    return f"{found['value']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _number(value: float | None, form: str, unit: str = "") -> str:
    return _NOTHING if value is None else f"{value:{form}}{unit}"


_COLUMNS = (
    "kind", "task", "dataset", "algorithm", "seed", "return", "normalised", "return_se",
    "best_return", "best_normalised", "success_rate", "steps", "batch_size", "episodes",
    "train_seconds", "checksum",
)  # fmt: skip


def csv_table(groups: Iterable[Group]) -> str:
    """Write the runs as CSV, one line each.

    Args:
        groups: the runs by dataset.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for group in groups:
        for runs in group.runs.values():
            for run in runs:
                summary, final = run.summary, run.summary["final"]
                best = summary.get("best") or {}
                writer.writerow(
                    {
                        "kind": group.kind,
                        "task": group.task,
                        "dataset": group.dataset,
                        "algorithm": run.algorithm,
                        "seed": run.seed,
                        "return": run.value,
                        "normalised": final.get("normalised"),
                        "return_se": final.get("return_se"),
                        "best_return": best.get("return_mean"),
                        "best_normalised": best.get("normalised"),
                        "success_rate": final.get("success_rate"),
                        "steps": summary["steps"],
                        "batch_size": summary.get("batch_size"),
                        "episodes": final.get("episodes"),
                        "train_seconds": summary.get("train_seconds"),
                        "checksum": dataset_of(summary).get("checksum"),
                    }
                )
    return text.getvalue()
