"""The process of one cell: ``python -m benchmarl_ssd.comparison.cell PLAN NUMBER``.

A stock run in a process of its own: what it does to the process ends with it, and a crash takes no
other cell along.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path

from benchmarl_ssd.algorithms.callback import write_json
from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.grid import literal
from benchmarl_ssd.comparison.lock import CellLock
from benchmarl_ssd.comparison.planning import Cell, read_plan
from benchmarl_ssd.comparison.state import (
    ERROR,
    OUTPUT,
    SUMMARY,
    examine,
    put_aside,
    read_summary,
)
from benchmarl_ssd.data.writer import versions

FAILED, BUSY, INTERRUPTED = 1, 3, 130
# A --list looks at locks for an instant; a cell that is really run stays locked longer.
_WAIT_SECONDS = 3.0


def run(cell: Cell) -> int:
    """Run a cell unless it is done, or another process is at it.

    Args:
        cell: the cell.

    Returns:
        0 if the cell is done, else ``FAILED``, ``BUSY`` or ``INTERRUPTED``.
    """
    lock = CellLock(cell.folder)
    if not lock.acquire(_WAIT_SECONDS):
        return BUSY
    try:
        status = examine(cell, locked=True).status
        if status in ("done", "different"):  # another process was here since the plan was made
            return 0 if status == "done" else FAILED
        if status != "missing":
            put_aside(cell.folder)
        cell.folder.mkdir(parents=True)
        return _run_stock(cell)
    finally:
        lock.release()


def _run_stock(cell: Cell) -> int:
    _write_output_to(cell.folder / OUTPUT)
    sys.argv = ["benchmarl.run", *cell.overrides, f"hydra.run.dir={literal(str(cell.folder))}"]
    try:
        from benchmarl.run import hydra_experiment

        hydra_experiment()
        _finish(cell)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:
        text = traceback.format_exc()
        (cell.folder / ERROR).write_text(text, encoding="utf-8")
        print(text, file=sys.stderr, flush=True)
        return FAILED
    return 0


def _finish(cell: Cell) -> None:
    found = sorted(cell.folder.glob(f"*/{SUMMARY}"))
    if len(found) != 1:
        raise ComparisonError(
            f"expected the run to write one {SUMMARY} in {cell.folder}, found {len(found)}"
        )
    compared = {
        "algorithm": cell.algorithm,
        "dataset": cell.dataset,
        "options": cell.options,
        "versions": versions(),
    }
    write_json(cell.folder / SUMMARY, {**read_summary(found[0]), "comparison": compared})


def _write_output_to(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):  # the descriptors, so that libraries and crashes write there, too
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _end_with(parent: int) -> None:
    """End this process soon after the one that started it, however that ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.exit(run(read_plan(Path(sys.argv[1]))[int(sys.argv[2])]))
