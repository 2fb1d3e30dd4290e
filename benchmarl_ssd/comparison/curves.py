"""Returns during training, from the files that BenchMARL writes."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from pathlib import Path
from typing import Any

_SCALAR = "eval_reward_episode_reward_mean.csv"
_STEP = re.compile(r"step_\d+")


def read_curve(folder: Path, summary: dict[str, Any]) -> list[list[float]]:
    """Read a run's evaluations from BenchMARL's marl-eval JSON, or else from its csv logger.

    Args:
        folder: the run's folder, or the one that holds it.
        summary: the run's summary, whose ``steps`` the evaluations are placed in.

    Returns:
        ``[optimiser steps, mean return]`` of each evaluation; nothing where neither file is there.
    """
    if not {"frames", "iterations"} <= summary.keys():  # written by an earlier version
        return []
    for path in sorted(folder.glob("*.json")) + sorted(folder.glob("*/*.json")):
        # Not every JSON file there is one of marl-eval's.
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError, AttributeError):
            found = _from_json(json.loads(path.read_text(encoding="utf-8")), summary)
            if found:
                per_frame = summary["steps"] / summary["frames"]
                return [[frames * per_frame, value] for frames, value in found]
    for path in sorted(folder.rglob(f"scalars/{_SCALAR}")):
        with contextlib.suppress(ValueError, OSError), path.open(encoding="utf-8") as file:
            # Rows are numbered by iterations from 0; an iteration's evaluation follows its steps.
            per_iteration = summary["steps"] / summary["iterations"]
            rows = [row for row in csv.reader(file) if row]
            return [[(int(row[0]) + 1) * per_iteration, float(row[1])] for row in rows]
    return []


def _from_json(content: Any, summary: dict[str, Any]) -> list[tuple[int, float]]:
    environment, name = summary["task"].split("/")
    runs = content[environment][name][summary["algorithm"]]
    steps = runs[f"seed_{summary['seed']}"]
    found = []
    for key, entry in steps.items():
        if _STEP.fullmatch(key) and entry.get("return"):
            returns = entry["return"]
            found.append((int(entry["step_count"]), sum(returns) / len(returns)))
    return sorted(found)
