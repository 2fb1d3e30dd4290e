"""How far a cell is, read from its folder."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarl_ssd.comparison.composing import differences
from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.lock import CellLock
from benchmarl_ssd.comparison.planning import Cell

SUMMARY, ERROR, OUTPUT = "summary.json", "error.txt", "output.txt"
_MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class State:
    """How far a cell is.

    Args:
        status: ``missing``, ``running``, ``interrupted``, ``failed``, ``done``, or ``different``,
            which is done with another configuration.
        detail: who runs it, why it failed, what differs or what it returned.
    """

    status: str
    detail: str = ""


def examine(cell: Cell, locked: bool = False) -> State:
    """Tell how far a cell is.

    Args:
        cell: the cell.
        locked: whether this process holds the cell's lock, so that nobody else runs it.

    Raises:
        ComparisonError: if the files of a finished run cannot be read.
    """
    lock = CellLock(cell.folder)
    if not locked and not lock.is_free():
        return State("running", lock.owner)
    if not os.path.lexists(cell.folder):
        return State("missing")
    if (cell.folder / SUMMARY).exists():
        summary = read_summary(cell.folder / SUMMARY)
        found = _differing(cell, summary)
        if found:
            more = f" and {len(found) - _MOST_DIFFERENCES} more" * (len(found) > _MOST_DIFFERENCES)
            return State("different", ", ".join(found[:_MOST_DIFFERENCES]) + more)
        return State("done", outcome(summary))
    if (cell.folder / ERROR).exists():
        lines = (cell.folder / ERROR).read_text(encoding="utf-8", errors="replace").split("\n")
        return State("failed", next((line for line in reversed(lines) if line.strip()), ""))
    return State("interrupted", f"{lock.owner} is gone" if lock.abandoned and not locked else "")


def _differing(cell: Cell, summary: dict[str, Any]) -> list[str]:
    path = cell.folder / ".hydra" / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ComparisonError(
            f"expected the configuration of a finished run in {path}, found {error}; "
            f"put {cell.folder} aside to run it again"
        ) from error
    found = list(differences(config, cell.config))
    trained = dataset_of(summary).get("checksum")
    if cell.checksum is None or trained is None:
        return found
    # A dataset is what is in it, wherever it lies.
    found = [each for each in found if not each.startswith(("algorithm.dataset=", "task.dataset="))]
    if trained != cell.checksum:
        found.append(f"dataset checksum {trained[:12]} instead of {cell.checksum[:12]}")
    return found


def dataset_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a summary says of the dataset, nothing if there was none.

    Args:
        summary: a run's.
    """
    return summary.get("dataset") or {}


def read_summary(path: Path) -> dict[str, Any]:
    """Read a run's ``summary.json``.

    Args:
        path: the file.

    Raises:
        ComparisonError: if it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComparisonError(f"expected a run's summary at {path}, found {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("final"), dict):
        raise ComparisonError(
            f'expected a run\'s summary with "final" at {path}, found something else'
        )
    return content


def outcome(summary: dict[str, Any]) -> str:
    """Say in a few words what a run returned.

    Args:
        summary: of the run.

    Example:
        >>> outcome({"final": {"return_mean": 1.5, "normalised": 60.0}, "train_seconds": 12})
        'return 1.5, normalised 60, trained 12 s'
    """
    final = summary["final"]
    if "return_mean" in final:
        words = [f"return {final['return_mean']:.4g}"]
    else:
        words = [f"estimated return {final['fqe_return_estimate']:.4g}"]
    if final.get("normalised") is not None:
        words.append(f"normalised {final['normalised']:.4g}")
    return ", ".join([*words, f"trained {summary.get('train_seconds', 0):.4g} s"])


def put_aside(folder: Path) -> Path:
    """Rename what a run left half done; nothing is deleted.

    Args:
        folder: the run's folder.

    Returns:
        Its new name, such as ``seed-0.aside-1``.
    """
    number = 1
    while os.path.lexists(folder.with_name(f"{folder.name}.aside-{number}")):
        number += 1
    return folder.rename(folder.with_name(f"{folder.name}.aside-{number}"))
