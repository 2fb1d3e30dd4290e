"""Results of runs, wherever they lie: run folders, and files with one summary per line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarl_ssd.comparison.curves import read_curve
from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.grid import recipe_label
from benchmarl_ssd.comparison.state import OUTPUT, SUMMARY, read_summary

PLAYED, ESTIMATED = "played", "fqe"


@dataclass(frozen=True)
class Result:
    """One run.

    Args:
        summary: its ``summary.json``.
        source: where it was read, for messages.
        curve: ``[optimiser steps, return]`` of the evaluations in training, where they are known.
    """

    summary: dict[str, Any]
    source: str
    curve: list[list[float]] = field(default_factory=list)

    @property
    def algorithm(self) -> str:
        """The name it is compared under: its label, else the algorithm's name."""
        compared, cell = self.summary.get("comparison"), self.summary.get("cell")
        if compared is not None:
            return compared["algorithm"]
        # A script's line: ["method", seed], or with more in front that tells runs apart.
        return "/".join(map(str, cell[:-1])) if cell else self.summary["algorithm"]

    @property
    def task(self) -> str:
        """The task, ``environment/name``."""
        return self.summary["task"]

    @property
    def dataset(self) -> str:
        """The dataset's name: its label, else its recipe, else the start of its checksum."""
        compared, data = self.summary.get("comparison"), self.summary.get("dataset")
        if compared is not None:
            return compared["dataset"]
        if data is None:
            return "own experience"
        return recipe_label(data["id"], self.task) if data["id"] else data["checksum"][:12]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.summary["seed"]

    @property
    def kind(self) -> str:
        """``played`` or ``fqe``: whether the return was played or estimated from data."""
        return self.summary["final"].get("estimator", PLAYED)

    @property
    def value(self) -> float:
        """The return of the last parameters."""
        name = "return_mean" if self.kind == PLAYED else "fqe_return_estimate"
        return self.summary["final"][name]

    @property
    def name(self) -> str:
        """Its name for people."""
        return f"{self.algorithm} seed {self.seed} ({self.source})"

    def to_dict(self) -> dict[str, Any]:
        """Give the summary and the curve as one line of a result file."""
        return {**self.summary, **({"curve": self.curve} if self.curve else {})}


def read_results(paths: Iterable[str | os.PathLike[str]]) -> list[Result]:
    """Read results from folders, recursively, and from ``.jsonl`` and ``.json`` files.

    A folder with a ``summary.json`` is one run, whatever lies further down. What was put aside,
    cells of a comparison that are not done and hidden folders are left out. The same run read twice
    counts once.

    Args:
        paths: folders and files.

    Returns:
        The runs in order of task, dataset, algorithm and seed.

    Raises:
        ComparisonError: if there is nothing, a file is something else, or two runs of the same
            algorithm, dataset and seed differ.
    """
    found: dict[tuple, Result] = {}
    for path in map(Path, paths):
        results = list(_read(path.expanduser()))
        if not results:
            raise ComparisonError(f"expected runs in {path}, found no {SUMMARY} and no result file")
        for result in results:
            key = (result.kind, result.task, result.dataset, result.algorithm, result.seed)
            known = found.setdefault(key, result)
            if known.summary != result.summary:
                raise ComparisonError(
                    f"expected one run of {result.algorithm} on {result.task}, {result.dataset}, "
                    f"with seed {result.seed}; found two that differ, in {known.source} and "
                    f"{result.source}: leave one out"
                )
            if result.curve and not known.curve:
                found[key] = result
    return [found[key] for key in sorted(found)]


def _read(path: Path) -> Iterator[Result]:
    if path.suffix == ".jsonl":
        yield from _read_lines(path)
    elif path.is_file():
        summary = read_summary(path)
        yield _result(summary, str(path), path.parent)
    else:
        for folder, children, files in os.walk(path):
            children[:] = sorted(
                c for c in children if not c.startswith(".") and ".aside-" not in c
            )
            if SUMMARY not in files and OUTPUT in files:
                children.clear()  # a cell of a comparison that is not done
            if SUMMARY in files:
                children.clear()
                summary = read_summary(Path(folder) / SUMMARY)
                yield _result(summary, folder, Path(folder))


def _read_lines(path: Path) -> Iterator[Result]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ComparisonError(f"expected a file of results at {path}, found {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        source = f"{path}:{number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise ComparisonError(f"expected JSON in {source}, found {error}") from None
        yield _result(content, source, None)


def _result(content: Any, source: str, folder: Path | None) -> Result:
    if not isinstance(content, dict):
        raise ComparisonError(f"expected a summary in {source}, found {type(content).__name__}")
    summary = {name: value for name, value in content.items() if name != "curve"}
    curve = content.get("curve") or []
    result = Result(summary, source, curve)
    try:
        complete = isinstance(result.seed, int) and isinstance(result.value, int | float)
        _ = (result.algorithm, result.task, result.dataset, summary["steps"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ComparisonError(
            f"expected a run's summary in {source}, found one without {error}"
        ) from None
    if not complete:
        raise ComparisonError(f"expected numbers for seed and return in {source}")
    if folder is not None and not curve and result.kind == PLAYED:
        return Result(summary, source, read_curve(folder, summary))
    return result


def only(results: Sequence[Result], algorithms: Sequence[str]) -> list[Result]:
    """Choose algorithms, and their order.

    Args:
        results: of any algorithms.
        algorithms: names to keep.

    Raises:
        ComparisonError: if there are no runs of one.
    """
    known = dict.fromkeys(result.algorithm for result in results)
    for name in algorithms:
        if name not in known:
            raise ComparisonError(f"expected algorithms of {', '.join(known)}; found {name!r}")
    kept = [result for result in results if result.algorithm in algorithms]
    return sorted(kept, key=lambda result: algorithms.index(result.algorithm))


def collect(results: Sequence[Result], path: Path) -> int:
    """Keep results in a file of one summary per line, in a fixed order; what is there stays.

    Args:
        results: to keep.
        path: the file, ending in ``.jsonl``; new results are added to one that exists.

    Returns:
        How many of the results are new.

    Raises:
        ComparisonError: if the name ends otherwise, or the file has another result for a run.
    """
    if path.suffix != ".jsonl":
        raise ComparisonError(f"expected a file ending in .jsonl, found {path}")
    kept = read_results([path]) if path.exists() and path.stat().st_size else []
    temporary = path.with_name(f".{path.stem}.tmp-{os.getpid()}{path.suffix}")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_lines([*kept, *results], temporary)
        everything = read_results([temporary])  # refuses two results for a run
        write_lines(everything, temporary)
        temporary.replace(path)
    except ComparisonError as error:
        raise ComparisonError(str(error).replace(str(temporary), str(path))) from None
    finally:
        temporary.unlink(missing_ok=True)
    return len(everything) - len(kept)


def write_lines(results: Iterable[Result], path: Path) -> None:
    """Write results, one per line.

    Args:
        results: to write.
        path: the file.
    """
    with path.open("w", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps(result.to_dict()) + "\n")
