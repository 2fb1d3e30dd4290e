"""What a report says, as plain data: the same for Markdown, JSON and figures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from benchmarl_ssd.comparison.groups import Group
from benchmarl_ssd.comparison.results import PLAYED, Result
from benchmarl_ssd.comparison.statistics import (
    CONFIDENCE,
    Bootstrap,
    Estimate,
    curve_means,
    improvement,
    interquartile_mean,
)
from benchmarl_ssd.comparison.suite import Suite, make_pair, make_suite

FORMAT = "benchmarl-ssd report"
_FEW = 3


def describe(groups: Sequence[Group], bootstrap: Bootstrap) -> dict[str, Any]:
    """Compute everything that a report holds.

    Args:
        groups: runs by dataset.
        bootstrap: how intervals are resampled.

    Returns:
        dict: ``datasets`` with a row per algorithm each, ``overall`` over the datasets that every
        algorithm ran on, ``improvement`` by pair of algorithms, and ``notes``.

    Raises:
        ImportError: if rliable is missing.
    """
    suite = make_suite(groups)
    datasets = [_dataset(group, bootstrap) for group in groups]
    improvements = _improvements(groups, bootstrap)
    return {
        "format": FORMAT,
        "confidence": CONFIDENCE,
        "bootstrap": dataclasses.asdict(bootstrap),
        "datasets": datasets,
        "overall": _overall(suite, bootstrap),
        "improvement": improvements,
        "notes": [*_notes(groups), *suite.notes, *_unpaired(groups, improvements)],
    }


def to_json(content: Any) -> str:
    """Write what :func:`describe` computed as JSON, which knows no NaN: it stands as null.

    Args:
        content: any of it.

    Example:
        >>> to_json({"mean": float("nan"), "runs": [1, 2.5]})
        '{\\n  "mean": null,\\n  "runs": [\\n    1,\\n    2.5\\n  ]\\n}'
    """

    def finite(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: finite(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [finite(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(content), indent=2, allow_nan=False)


def _dataset(group: Group, bootstrap: Bootstrap) -> dict[str, Any]:
    data, first = group.data, group.first
    described = None
    if data:
        described = {
            "checksum": data["checksum"],
            "builds": group.builds,
            "transitions": data["transitions"],
            "references": data.get("references"),
            **{
                name: {"return": data[key], "normalised": group.score(data[key])}
                for name, key in (("mean", "return_mean"), ("best", "return_best"))
            },
        }
    return {
        "kind": group.kind,
        "task": group.task,
        "dataset": group.dataset,
        "data": described,
        "steps": first["steps"],
        "batch_size": first.get("batch_size"),
        "episodes": first["final"].get("episodes"),
        "rows": [_row(group, name, runs, bootstrap) for name, runs in group.runs.items()],
    }


def _row(group: Group, name: str, runs: list[Result], bootstrap: Bootstrap) -> dict[str, Any]:
    estimate = interquartile_mean([[run.value] for run in runs], bootstrap)
    row: dict[str, Any] = {
        "algorithm": name,
        "seeds": [run.seed for run in runs],
        "return": dataclasses.asdict(estimate),
        "normalised": _normalised(group, estimate),
        "best": _best(group, runs, bootstrap),
        "success_rate": _mean([run.summary["final"].get("success_rate") for run in runs]),
        "train_seconds": _train_seconds(runs),
        "curve": _curve(runs, bootstrap),
    }
    if group.kind != PLAYED:
        # What FQE finds is in another measure than the references if it is discounted.
        row["normalised"] = None
        row["action_distance"] = _mean([r.summary["final"].get("action_distance") for r in runs])
    return row


def _normalised(group: Group, estimate: Estimate) -> dict[str, float | None] | None:
    # Scores are the returns on another scale, so their interquartile mean and interval are, too.
    value = group.score(estimate.value)
    if value is None:
        return None
    ends = [group.score(end) for end in (estimate.low, estimate.high)]
    low, high = sorted(end for end in ends if end is not None) or (None, None)
    return dataclasses.asdict(Estimate(value, low, high))


def _best(group: Group, runs: list[Result], bootstrap: Bootstrap) -> dict[str, Any] | None:
    best = [(run.summary.get("best") or {}).get("return_mean") for run in runs]
    if any(value is None for value in best):
        return None
    value = interquartile_mean([[each] for each in best], Bootstrap(1, bootstrap.seed)).value
    return {"return": value, "normalised": group.score(value)}


def _curve(runs: list[Result], bootstrap: Bootstrap) -> dict[str, Any] | None:
    steps = [[point[0] for point in run.curve] for run in runs]
    if not steps[0] or any(each != steps[0] for each in steps):
        return None
    values = [[[point[1] for point in run.curve]] for run in runs]
    means, low, high = curve_means(values, bootstrap)
    return {"steps": steps[0], "return": means, "low": low, "high": high}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _train_seconds(runs: list[Result]) -> float | None:
    seconds = [run.summary.get("train_seconds") for run in runs]
    return _mean(seconds) if len(_devices(runs)) == 1 else None


def _devices(runs: list[Result]) -> set[tuple[str, bool]]:
    # Earlier summaries do not say what they were trained on; that was a CPU.
    return {
        (run.summary.get("device", "cpu"), run.summary.get("cuda_graphs", False)) for run in runs
    }


def _overall(suite: Suite, bootstrap: Bootstrap) -> dict[str, Any] | None:
    if len(suite.scored) < 2:  # one dataset's table says it already
        return None
    return {
        "datasets": [[group.task, group.dataset] for group in suite.scored],
        "rows": [
            {
                "algorithm": name,
                "runs": len(scores),
                "normalised": dataclasses.asdict(interquartile_mean(scores, bootstrap)),
            }
            for name, scores in suite.scores.items()
        ],
    }


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[str, str]]:
    return combinations(dict.fromkeys(name for group in groups for name in group.runs), 2)


def _improvements(groups: Sequence[Group], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    found = []
    for x, y in _pairs(groups):
        pair = make_pair(groups, x, y)
        if pair is not None:
            first, second = pair.returns[x], pair.returns[y]
            found.append(
                {
                    "x": x,
                    "y": y,
                    "datasets": len(pair.groups),
                    "runs": [len(first), len(second)],
                    **dataclasses.asdict(improvement(first, second, bootstrap)),
                }
            )
    return found


def _unpaired(groups: Sequence[Group], found: list[dict[str, Any]]) -> list[str]:
    played = [group for group in groups if group.kind == PLAYED]
    paired = {(each["x"], each["y"]) for each in found}
    left_out = [
        f"{x} and {y}"
        for x, y in _pairs(groups)
        if (x, y) not in paired and any({x, y} <= group.runs.keys() for group in played)
    ]
    if not left_out:
        return []
    return [
        f"No probability of improvement between {'; '.join(left_out)}: one of them has no seed on "
        "all the datasets that both ran on."
    ]


def _notes(groups: Sequence[Group]) -> list[str]:
    counts = [len(runs) for group in groups for runs in group.runs.values()]
    notes = []
    runs = [run for group in groups for each in group.runs.values() for run in each]
    failed = [run.name for run in runs if not math.isfinite(run.value)]
    if failed:
        notes.append(
            f"The return is no number in {'; '.join(failed)}: nothing can be said of the "
            "algorithm there, nor of all datasets together."
        )
    if min(counts) == 1:
        notes.append("One seed says nothing about other seeds: no interval is given for it.")
    if min(counts) < _FEW:
        few = sum(count < _FEW for count in counts)
        notes.append(
            f"{few} of {len(counts)} results rest on fewer than {_FEW} seeds: no claim that one "
            "algorithm is better than another rests on them."
        )
    if min(counts) < 4:
        notes.append("With fewer than four seeds the interquartile mean is the plain mean.")
    if any(len(_devices(each)) > 1 for group in groups for each in group.runs.values()):
        notes.append("No time of training is given of runs that were trained on different devices.")
    built = [f"{group.builds} on {group.name}" for group in groups if group.builds > 1]
    if built:
        notes.append(
            "Datasets that one recipe has built on different machines are taken as one, with mean "
            f"returns within a thousandth of what lies between the references: {'; '.join(built)}."
        )
    if any(group.kind != PLAYED for group in groups):
        notes.append(
            "Returns estimated by FQE are not played: they rank policies of one dataset at best, "
            "and enter no comparison with played ones."
        )
    return notes
