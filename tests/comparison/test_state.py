"""How far a cell is, and that only one process runs it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from summaries import make_summary

from benchmarl_ssd.comparison import ComparisonError
from benchmarl_ssd.comparison.cell import BUSY, run
from benchmarl_ssd.comparison.grid import Named
from benchmarl_ssd.comparison.lock import CellLock
from benchmarl_ssd.comparison.planning import choose_dataset, plan
from benchmarl_ssd.comparison.state import examine, put_aside


@pytest.fixture
def cell(tmp_path):
    choice = choose_dataset(Named("", "mpe/world/expert"))
    return plan(tmp_path, [Named("bc", "bc")], [choice], [0])[0]


def finish(cell, checksum="c" * 64):
    (cell.folder / ".hydra").mkdir(parents=True)
    (cell.folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(cell.config))
    summary = make_summary(2.5)
    summary["dataset"]["checksum"] = checksum
    (cell.folder / "summary.json").write_text(json.dumps(summary))


def changed(cell, **experiment):
    config = {**cell.config, "experiment": {**cell.config["experiment"], **experiment}}
    return dataclasses.replace(cell, config=config)


def test_states_in_their_order(cell):
    assert examine(cell).status == "missing"
    assert not cell.folder.parent.exists()  # looking leaves nothing behind
    cell.folder.mkdir(parents=True)
    assert examine(cell).status == "interrupted"
    (cell.folder / "error.txt").write_text("Traceback\nValueError: no\n\n")
    assert (examine(cell).status, examine(cell).detail) == ("failed", "ValueError: no")
    finish(cell)
    assert examine(cell).status == "done"
    assert examine(cell).detail == "return 2.5, normalised 25, trained 10 s"


def test_another_configuration_is_named(cell):
    finish(cell)
    state = examine(changed(cell, gamma=0.5, lr=7.0))
    assert state.status == "different"
    assert (
        state.detail == "experiment.gamma=0.95 instead of 0.5, experiment.lr=0.001 instead of 7.0"
    )
    more = changed(cell, gamma=0.5, lr=7.0, polyak_tau=0.1, adam_eps=1.0, new=1)
    assert examine(more).detail.endswith("and 2 more")
    assert "experiment.new=(nothing) instead of 1" in examine(changed(cell, new=1)).detail


def test_a_dataset_is_what_is_in_it(cell):
    finish(cell, checksum="a" * 64)
    moved = {**cell.config, "algorithm": {**cell.config["algorithm"], "dataset": "/elsewhere"}}
    same = dataclasses.replace(cell, config=moved, checksum="a" * 64)
    assert examine(same).status == "done"
    assert examine(dataclasses.replace(same, checksum=None)).status == "different"
    other = examine(dataclasses.replace(cell, checksum="b" * 64))
    assert other.detail == "dataset checksum aaaaaaaaaaaa instead of bbbbbbbbbbbb"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"final": 1}', "{"])
def test_a_summary_that_is_none(cell, text):
    finish(cell)
    (cell.folder / "summary.json").write_text(text)
    with pytest.raises(ComparisonError, match="summary"):
        examine(cell)


def test_a_run_without_its_configuration_is_not_taken_for_any(cell):
    finish(cell)
    (cell.folder / ".hydra" / "config.yaml").unlink()
    with pytest.raises(ComparisonError, match=r"config\.yaml.*put .* aside"):
        examine(cell)


def test_half_runs_are_kept(cell):
    for content in "ab":
        cell.folder.mkdir(parents=True)
        (cell.folder / "weights").write_text(content)
        put_aside(cell.folder)
    kept = [cell.folder.with_name(f"seed-0.aside-{n}") / "weights" for n in (1, 2)]
    assert [path.read_text() for path in kept] == ["a", "b"]


# --------------------------------------------------------------------------------------- locks

HOLD = """
import sys, time
from pathlib import Path
from benchmarl_ssd.comparison.lock import CellLock
print(CellLock(Path(sys.argv[1])).acquire(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(cell):
    """Another process that runs the cell."""
    command = [sys.executable, "-c", HOLD, str(cell.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_one_process_runs_a_cell_until_it_is_killed(cell, holder):
    state = examine(cell)
    assert (state.status, state.detail.split(" on ")[0]) == ("running", f"process {holder.pid}")
    assert not CellLock(cell.folder).acquire()
    assert run(cell) == BUSY
    assert not cell.folder.exists()
    holder.send_signal(signal.SIGKILL)  # nothing is cleaned up
    holder.wait()
    cell.folder.mkdir()
    state = examine(cell)
    assert (state.status, state.detail.endswith("is gone")) == ("interrupted", True)
    lock = CellLock(cell.folder)
    assert lock.acquire()
    lock.release()
    assert examine(cell).detail == ""


def test_a_machine_that_locks_for_itself_alone_is_believed_while_it_writes(cell):
    lock = CellLock(cell.folder)
    assert lock.acquire()
    lock.release()
    note = cell.folder.with_name(".seed-0.running.json")
    note.write_text(json.dumps({"pid": 1, "host": "another-machine", "started": 0}))
    assert examine(cell).detail == "process 1 on another-machine"
    assert not lock.acquire()
    long_ago = time.time() - 3600
    os.utime(note, (long_ago, long_ago))
    assert examine(cell).status == "missing"
    assert lock.acquire()
    lock.release()


def test_a_finished_cell_is_left_alone(cell):
    finish(cell)
    before = sorted(cell.folder.rglob("*"))
    assert run(cell) == 0
    assert run(changed(cell, gamma=0.5)) == 1
    assert sorted(cell.folder.rglob("*")) == before
