"""A report's folder: text, numbers and figures, written again whenever results are added."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarl_ssd.comparison.content import FORMAT, to_json
from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.figures import (
    plot_curves,
    plot_improvement,
    plot_profiles,
    plot_scores,
)
from benchmarl_ssd.comparison.groups import Group
from benchmarl_ssd.comparison.statistics import Bootstrap
from benchmarl_ssd.comparison.suite import make_suite
from benchmarl_ssd.comparison.tables import csv_table, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERS = "report.json"
FIGURES = {
    "scores.png": "Scores by dataset",
    "performance_profile.png": "Share of runs above a score",
    "improvement.png": "Probability of improvement",
    "curves.png": "Returns during training",
}
FILES = ("report.md", "report.csv", NUMBERS, *FIGURES)


def check_folder(folder: Path) -> None:
    """Check that a folder is a report's or free for one, before anything is computed.

    Args:
        folder: where the report is to be.

    Raises:
        ComparisonError: if it holds a file of a report's names that is not a report's.
    """
    if folder.exists() and not folder.is_dir():
        raise ComparisonError(f"expected a folder for the report, found the file {folder}")
    there = [name for name in FILES if os.path.lexists(folder / name)]
    if there and not _is_report(folder / NUMBERS):
        raise ComparisonError(
            f"expected a new folder or an earlier report in {folder}, found {there[0]} of another "
            "origin; choose another --out"
        )


def _is_report(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_report(
    content: dict[str, Any], groups: Sequence[Group], bootstrap: Bootstrap, folder: Path
) -> list[Path]:
    """Write a report: Markdown, CSV, JSON and the figures that its runs allow.

    Files of an earlier report in the folder are replaced; every other file stays.

    Args:
        content: what :func:`~benchmarl_ssd.comparison.content.describe` computed.
        groups: of what.
        bootstrap: for the performance profile.
        folder: where to write; see :func:`check_folder`.

    Returns:
        The files written.

    Raises:
        ComparisonError: as :func:`check_folder`.
        ImportError: if rliable or matplotlib is missing.
    """
    check_folder(folder)
    drawn: dict[str, Figure | None] = dict(
        zip(
            FIGURES,
            (
                plot_scores(content),
                plot_profiles(make_suite(groups), bootstrap),
                plot_improvement(content),
                plot_curves(content),
            ),
            strict=True,
        )
    )
    pictures = {name: _png(figure) for name, figure in drawn.items() if figure is not None}
    shown = "".join(f"\n![{FIGURES[name]}]({name})\n" for name in pictures)
    files = {
        # First, so that a report that is broken off is known as one.
        NUMBERS: (to_json(content) + "\n").encode(),
        "report.csv": csv_table(groups).encode(),
        **pictures,
        "report.md": f"# Comparison\n\n{markdown(content)}{shown}".encode(),
    }
    _replace(folder, files)
    return [folder / name for name in FILES if name in files]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the program's name and version: equal results give equal files.
    # rliable puts some labels where the layout does not look for them, hence the tight box.
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        temporary = folder / f".{name}.tmp-{os.getpid()}"
        try:
            temporary.write_bytes(content)
            temporary.replace(folder / name)
        finally:
            temporary.unlink(missing_ok=True)
    for name in FIGURES:  # an earlier report's figure that these results do not have
        if name not in files:
            (folder / name).unlink(missing_ok=True)
