"""Hands cells to one of Hydra's launchers: joblib on this machine, submitit or ray on others."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from benchmarl_ssd.comparison.errors import ComparisonError
from benchmarl_ssd.comparison.grid import literal
from benchmarl_ssd.comparison.planning import Cell, read_plan, write_plan
from benchmarl_ssd.comparison.state import ERROR, OUTPUT, examine

THREADS = "OMP_NUM_THREADS"
_TAIL = 2000


def launch(
    cells: Sequence[Cell],
    out: Path,
    launcher: str = "joblib",
    jobs: int | None = None,
    options: Sequence[str] = (),
) -> None:
    """Run cells with a launcher of Hydra's and wait for all of them.

    A cell that fails stops no other; :func:`~benchmarl_ssd.comparison.state.examine` tells.

    Args:
        cells: to run, at least one.
        out: the folder of the comparison; how it was launched is kept in ``out/.launches``.
        launcher: ``joblib``, ``basic`` (one after another), or one of another plugin of Hydra's,
            such as ``submitit_slurm``.
        jobs: cells at a time, for joblib; None: one for each core that this process may use.
        options: of the launcher, ``KEY=VALUE`` each.

    Raises:
        ComparisonError: if an option does not fit the launcher.
        ImportError: if the launcher is not installed.
    """
    settings = [f"hydra/launcher={launcher}"]
    if launcher == "joblib":
        count = jobs or _usable_cores()
        # One cell is much longer than handing it over: no batches.
        settings += [
            f"hydra.launcher.n_jobs={min(count, len(cells))}",
            "hydra.launcher.batch_size=1",
        ]
    elif jobs is not None:
        raise ComparisonError(
            f"expected --jobs with the joblib launcher, found {launcher}; "
            "give its own options with --launcher-option KEY=VALUE"
        )
    _check_installed(launcher)
    settings += [f"hydra.launcher.{option}" for option in options]
    folder = (
        out.expanduser().resolve() / ".launches" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    )
    folder.mkdir(parents=True)
    write_plan(cells, folder / "plan.json")
    numbers = ",".join(map(str, range(len(cells))))
    arguments = [
        "--multirun",
        f"+cell={numbers}",
        f"+plan={literal(str(folder / 'plan.json'))}",
        f"+threads={literal(os.environ.get(THREADS, '1'))}",
        *settings,
        f"hydra.sweep.dir={literal(str(folder))}",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra/hydra_logging=none",
        "hydra/job_logging=none",
    ]
    argv = ["benchmarl-ssd compare", *arguments]
    # A launch leaves Hydra configured; an experiment of this process would take that for its own.
    before = HydraConfig.instance().cfg
    try:
        with _threads(), mock.patch.object(sys, "argv", argv):
            _job()
    finally:
        HydraConfig.instance().cfg = before


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # a container's or a job's share, where it can be told
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_installed(launcher: str) -> None:
    if launcher == "basic":
        return
    plugin = f"hydra-{launcher.partition('_')[0]}-launcher"
    if importlib.util.find_spec(f"hydra_plugins.{plugin.replace('-', '_')}") is None:
        wanted = "benchmarl-ssd[compare]" if launcher == "joblib" else plugin
        raise ImportError(f'the launcher {launcher} is not installed: pip install "{wanted}"')


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    # Two runs of one thread beat one run of two, and workers inherit what is set here. Errors of
    # Hydra's come as exceptions, not as an exit.
    chosen = {THREADS: os.environ.get(THREADS, "1"), "HYDRA_FULL_ERROR": "1"}
    with mock.patch.dict(os.environ, chosen):
        yield


@hydra.main(version_base="1.3", config_path=None)
def _job(config: DictConfig) -> None:
    start(Path(config.plan), config.cell, str(config.threads))


def start(plan: Path, number: int, threads: str = "1") -> None:
    """Run one cell in a process of its own and say how it ended.

    Args:
        plan: the file of cells.
        number: which of them.
        threads: how many the process may use, unless its environment says so.
    """
    cell = read_plan(plan)[number]
    command = [sys.executable, "-m", "benchmarl_ssd.comparison.cell", str(plan), str(number)]
    environment = {THREADS: threads, **os.environ, "HYDRA_FULL_ERROR": "1"}
    with subprocess.Popen(command, env=environment) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    if code < 0 and -code != signal.SIGTERM:  # a termination is meant, any other is a crash
        _note_crash(cell, -code)
    state = examine(cell)
    print(" ".join(f"{state.status:11} {cell.name}  {state.detail}".split("\n")), flush=True)


def _note_crash(cell: Cell, number: int) -> None:
    output = cell.folder / OUTPUT
    if not cell.folder.is_dir():
        return
    tail = output.read_text(encoding="utf-8", errors="replace")[-_TAIL:] if output.exists() else ""
    memory = "; was there too little memory?" if number == signal.SIGKILL else ""
    (cell.folder / ERROR).write_text(
        f"{tail}\nended by signal {number} ({signal.Signals(number).name}){memory}\n",
        encoding="utf-8",
    )
