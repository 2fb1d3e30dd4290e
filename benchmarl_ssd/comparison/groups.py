"""Which runs may stand in one table: those of one dataset that were made alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.results import PLAYED, Result
from benchmarl_ssd.comparison.state import dataset_of
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
    def builds(self) -> int:
        """The datasets that the runs were trained on: several only if they are of one recipe."""
        runs = (run for each in self.runs.values() for run in each)
        return len({_checksum(run.summary) for run in runs})

    @property
    def data(self) -> dict[str, Any]:
        """What the summaries say of the dataset."""
        return dataset_of(self.first)

    def score(self, value: float | None) -> float | None:
        """Normalise a return, where the dataset has references.

        Args:
            value: the return.
        """
        return None if value is None else normalised(value, self.data.get("references"))


# Builds of one recipe on two machines differ by rounding, which episodes magnify: by this share of
# what lies between the references, at most, in their mean returns.
_ALIKE = 1e-3
# Options of BenchMARL's experiment that change no result, by how they begin.
_NEUTRAL = (
    "loggers",
    "create_json",
    "render",
    "save_folder",
    "project_name",
    "wandb_extra_kwargs",
    "checkpoint",
    "keep_checkpoints_num",
    "exclude_buffer_from_checkpoint",
    "sampling_device",
    "train_device",
    "buffer_device",
)


def _on_record(run: Result) -> bool:
    """Whether a comparison or a script said what it set; of a stock run nothing is known."""
    return "comparison" in run.summary or "settings" in run.summary


def _options(summary: dict[str, Any], task: bool) -> list[str]:
    """What a comparison or a script set, of the task or of the rest."""
    given = [each.lstrip("+") for each in summary.get("comparison", {}).get("options", [])]
    given += [f"{name}={value}" for name, value in summary.get("settings", {}).items()]
    neutral = ("algorithm.cuda_graphs", *(f"experiment.{name}" for name in _NEUTRAL))
    last = {each.split("=", 1)[0]: each for each in given}  # of one key the last counts
    kept = (each for key, each in last.items() if key.startswith("task.") == task)
    return sorted(each for each in kept if not each.startswith(neutral))


def _checksum(summary: dict[str, Any]) -> str | None:
    return dataset_of(summary).get("checksum")


def _recipe(summary: dict[str, Any]) -> tuple[str, int] | str | None:
    """The recipe of a dataset and its size, or its checksum, if it is of none."""
    data = dataset_of(summary)
    return (data["id"], data["transitions"]) if data.get("id") else data.get("checksum")


_Entry = Callable[[dict[str, Any]], Any]
_SAME_DATA: dict[str, _Entry] = {"dataset checksum": _checksum}
_SAME_RECIPE: dict[str, _Entry] = {"recipe of the dataset": _recipe}
_SAME: dict[str, _Entry] = {
    "references": lambda summary: dataset_of(summary).get("references"),
    "optimiser steps": lambda summary: summary["steps"],
    "batch size": lambda summary: summary.get("batch_size"),
    "evaluation episodes": lambda summary: summary["final"].get("episodes"),
    "FQE steps": lambda summary: summary["final"].get("fqe_steps"),
    "FQE discount": lambda summary: summary["final"].get("fqe_gamma"),
    "FQE members": lambda summary: len(summary["final"].get("fqe_members", [])),
    "FQE horizon": lambda summary: summary["final"].get("fqe_horizon"),
}
# Where they are on record: the same in all runs, and in all runs of an algorithm.
_SAME_TASK: dict[str, _Entry] = {
    "options of the task": lambda summary: _options(summary, task=True)
}
_SAME_ALGORITHM: dict[str, _Entry] = {"options": lambda summary: _options(summary, task=False)}


def grouped(results: Sequence[Result], same_recipe: bool = False) -> list[Group]:
    """Group runs by dataset, and refuse those that must not be averaged.

    Args:
        results: as :func:`~benchmarl_ssd.comparison.results.read_results` gives them.
        same_recipe: take datasets that one recipe has built on different machines as one, if their
            mean returns are within a thousandth of what lies between the references.

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
        _check_alike(group, same_recipe)
    return list(groups.values())


def _check_alike(group: Group, same_recipe: bool) -> None:
    runs = [run for each in group.runs.values() for run in each]
    _check_same(group.name, runs, _SAME_RECIPE if same_recipe else _SAME_DATA)
    _check_same(group.name, runs, _SAME)
    if same_recipe:
        _check_builds(group, runs)
    _check_same(group.name, list(filter(_on_record, runs)), _SAME_TASK)
    for each in group.runs.values():
        _check_same(group.name, list(filter(_on_record, each)), _SAME_ALGORITHM)


def _check_builds(group: Group, runs: Sequence[Result]) -> None:
    first = group.data
    if not first:
        return
    ends = [end for end in (first.get("references") or {}).values() if end is not None]
    span = abs(ends[0] - ends[1]) if len(ends) == 2 else abs(first["return_mean"])
    for run in runs:
        data = dataset_of(run.summary)
        if abs(data["return_mean"] - first["return_mean"]) > _ALIKE * span:
            raise ComparisonError(
                f"expected builds of {data['id']} with mean returns within {_ALIKE * span:.3g}, "
                f"found {first['return_mean']:.6g} in {runs[0].name} and "
                f"{data['return_mean']:.6g} in {run.name}; such runs are not comparable: report "
                "them apart"
            )


def _check_same(name: str, runs: Sequence[Result], entries: dict[str, _Entry]) -> None:
    for what, entry in entries.items():
        for run in runs[1:]:
            first, other = entry(runs[0].summary), entry(run.summary)
            if first != other:
                builds = entry is _checksum and _recipe(run.summary) == _recipe(runs[0].summary)
                raise ComparisonError(
                    f"expected runs on {name} with the same {what}, found "
                    f"{_shown(first, other)} in {runs[0].name} and {_shown(other, first)} in "
                    f"{run.name}; such runs are not comparable: report them apart"
                    + (", or as builds of one recipe, with --same-recipe" if builds else "")
                )


def _shown(value: Any, other: Any) -> str:
    if isinstance(value, list) and isinstance(other, list):  # what both have is no news
        value = ", ".join(each for each in value if each not in other) or None
    return "nothing said" if value is None else str(value)
