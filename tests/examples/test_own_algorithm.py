"""The example of an algorithm outside the package trains through the real runner."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from torch import nn

from benchmarl_ssd import conf_dir
from benchmarl_ssd.data import build
from benchmarl_ssd.environments import CoordinationTask

FOLDER = Path(__file__).parents[2] / "examples" / "own_algorithm"


@pytest.fixture
def crr(monkeypatch):
    spec = importlib.util.spec_from_file_location("crr", FOLDER / "crr.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "crr", module)  # a run's config.pkl names it
    spec.loader.exec_module(module)
    return module


def test_it_trains_and_sums_up(crr, tmp_path):
    algorithm = crr.CrrConfig.get_from_yaml(str(FOLDER / "crr.yaml"))
    algorithm.dataset = str(build("coordination/bandit/modes", root=tmp_path, progress=False))
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.max_n_iters = config.evaluation_interval = 2
    config.off_policy_n_optimizer_steps, config.off_policy_train_batch_size = 30, 64
    config.save_folder = str(tmp_path)
    network = MlpConfig(num_cells=[16], layer_class=nn.Linear, activation_class=nn.ReLU)
    task = CoordinationTask.BANDIT.get_from_yaml()
    experiment = Experiment(task, algorithm, network, 0, config, critic_model_config=network)
    before = [p.clone() for p in experiment.policy.parameters()]
    experiment.run()
    summary = json.loads((experiment.folder_name / "summary.json").read_text())
    assert (summary["algorithm"], summary["steps"]) == ("crr", 60)
    moved = zip(before, experiment.policy.parameters(), strict=True)
    assert any(not old.equal(new) for old, new in moved)


def test_it_is_as_short_as_the_readme_says():
    assert len((FOLDER / "crr.py").read_text().splitlines()) <= 60


def test_its_checkpoints_are_exported(tmp_path, monkeypatch):
    """As its docstring runs it, and where the file lies."""
    dataset = build("coordination/bandit/modes", root=tmp_path / "data", progress=False)
    mine = tmp_path / "mine"
    shutil.copytree(FOLDER, mine)
    monkeypatch.chdir(mine)
    train = [sys.executable, "crr.py", str(dataset)]
    done = subprocess.run(train, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (checkpoint,) = mine.rglob("checkpoint_*.pt")
    command = "from benchmarl_ssd.cli import main; main()"
    export = ["export-policy", str(checkpoint), "--out", "policy.onnx"]
    done = subprocess.run(
        [sys.executable, "-c", command, *export], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (mine / "policy.onnx").exists()
