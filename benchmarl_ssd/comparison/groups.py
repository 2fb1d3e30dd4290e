"""Which runs may stand in one table: those of one dataset that were made alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.results import PLAYED, Result
from benchmarl_ssd.evaluation.episodes import normalised


@dataclass(frozen=True)
class Group:
    """All runs on one dataset, whose returns are of one kind.

    Args:
        kind: ``played``, or ``fqe`` for returns that were estimated from data.
        task: ``environment/name``.
        dataset: the dataset's name.
        runs: by algorithm, in order of seeds.
    """

    kind: str
    task: str
    dataset: str
    runs: dict[str, list[Result]]

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.task}, {self.dataset}"

    @property
    def first(self) -> dict[str, Any]:
        """The summary of one run, for what is the same in all of them."""
        return next(iter(self.runs.values()))[0].summary

    @property
    def data(self) -> dict[str, Any]:
        """What the summaries say of the dataset."""
        return self.first.get("dataset") or {}

    def score(self, value: float | None) -> float | None:
        """Normalise a return, where the dataset has references.

        Args:
            value: the return.
        """
        return None if value is None else normalised(value, self.data.get("references"))


_Entry = Callable[[dict[str, Any]], Any]
_SAME: dict[str, _Entry] = {
    "dataset checksum": lambda summary: (summary.get("dataset") or {}).get("checksum"),
    "references": lambda summary: (summary.get("dataset") or {}).get("references"),
    "optimiser steps": lambda summary: summary["steps"],
    "batch size": lambda summary: summary.get("batch_size"),
    "evaluation episodes": lambda summary: summary["final"].get("episodes"),
    "FQE steps": lambda summary: summary["final"].get("fqe_steps"),
    "FQE discount": lambda summary: summary["final"].get("fqe_gamma"),
    "FQE members": lambda summary: len(summary["final"].get("fqe_members", [])),
    "FQE horizon": lambda summary: summary["final"].get("fqe_horizon"),
}


def grouped(results: Sequence[Result]) -> list[Group]:
    """Group runs by dataset, and refuse those that must not be averaged.

    Args:
        results: as :func:`~benchmarl_ssd.comparison.results.read_results` gives them.

    Returns:
        The groups, played ones first.

    Raises:
        ComparisonError: if runs on one dataset differ in budget, data, references or evaluation;
            the message names two of them.
    """
    groups: dict[tuple[str, str, str], Group] = {}
    for result in sorted(results, key=lambda each: each.kind != PLAYED):
        key = (result.kind, result.task, result.dataset)
        group = groups.setdefault(key, Group(*key, runs={}))
        group.runs.setdefault(result.algorithm, []).append(result)
    for group in groups.values():
        _check_alike(group)
    return list(groups.values())


def _check_alike(group: Group) -> None:
    runs = [run for each in group.runs.values() for run in each]
    for what, entry in _SAME.items():
        for run in runs[1:]:
            first, other = entry(runs[0].summary), entry(run.summary)
            if first != other:
                raise ComparisonError(
                    f"expected runs on {group.name} with the same {what}, found {_shown(first)} in "
                    f"{runs[0].name} and {_shown(other)} in {run.name}; such runs are not "
                    "comparable: report them apart"
                )


def _shown(value: Any) -> str:
    return "nothing said" if value is None else str(value)
