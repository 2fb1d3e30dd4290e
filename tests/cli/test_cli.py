"""The command line: what it makes, and one line for whatever the user can mend."""

import hashlib
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from benchmarl.algorithms import MaddpgConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import GruConfig, MlpConfig

from benchmarl_ssd.cli.sources import find_task
from benchmarl_ssd.data import OfflineDataset, get_recipe

BALANCE = ["--task", "vmas/balance", "--num-envs", "4", "max_steps=5", "n_agents=3"]


def fingerprint(folder):
    return {p: hashlib.sha256(p.read_bytes()).digest() for p in folder.rglob("*") if p.is_file()}


def train(folder, model_config):
    config = ExperimentConfig.get_from_yaml()
    config.loggers, config.render, config.evaluation = [], False, False
    config.save_folder, config.checkpoint_at_end = str(folder), True
    config.max_n_iters, config.max_n_frames = 1, None
    config.off_policy_collected_frames_per_batch, config.off_policy_n_envs_per_worker = 20, 2
    config.off_policy_n_optimizer_steps, config.off_policy_train_batch_size = 1, 4
    config.off_policy_memory_size = 40
    task = VmasTask.BALANCE.get_from_yaml()
    task.config |= {"max_steps": 6, "n_agents": 3}
    Experiment(
        task=task, algorithm_config=MaddpgConfig.get_from_yaml(), model_config=model_config,
        seed=0, config=config,
    ).run()  # fmt: skip
    return next(folder.rglob("*.pt"))


# ------------------------------------------------------------------------------------ record


@pytest.mark.parametrize("model_config", [MlpConfig, GruConfig])
def test_record_from_a_checkpoint(tmp_path, run, model_config):
    (tmp_path / "experiments").mkdir()
    checkpoint = train(tmp_path / "experiments", model_config.get_from_yaml())
    before = fingerprint(tmp_path / "experiments")
    arguments = ["--checkpoint", checkpoint, "--episodes", "10", "--num-envs", "4"]
    for name in ("a", "b"):
        code, _, error = run("record", "--out", tmp_path / name, *arguments)
        assert code == 0, error
    noisy = [*arguments, "--exploration", "random"]
    assert run("record", "--out", tmp_path / "c", *noisy)[0] == 0
    assert fingerprint(tmp_path / "experiments") == before
    sets = {name: OfflineDataset(tmp_path / name) for name in "abc"}
    metadata = sets["a"].metadata
    assert metadata.counts == {
        "transitions": 60, "episodes": 10, "terminated": 0, "truncated": 10,
    }  # fmt: skip
    assert metadata.task["name"] == "balance"
    assert metadata.task["config"]["n_agents"] == 3
    assert (metadata.source["kind"], metadata.source["policy"]) == ("checkpoint", "maddpg")
    assert set(sets["a"].data["agents"].keys()) == {"observation", "action"}
    assert set(sets["a"].data.keys()) == {"agents", "episode", "next"}
    assert metadata.checksum == sets["b"].metadata.checksum
    assert metadata.checksum != sets["c"].metadata.checksum


POLICIES = """
    import torch

    class Lazy:
        def __init__(self, env):
            self.shape = env.full_action_spec["agents", "action"].shape

        def __call__(self, data):
            return data.set(("agents", "action"), torch.full(self.shape, 0.25))

    def make(env):
        return Lazy(env)

    def half(data):
        return data.set(("agents", "action"), torch.full((4, 3, 2), 0.5))

    def wild(data):
        return data.set(("agents", "action"), torch.full((4, 3, 2), 5.0))

    def nan(data):
        return data.set(("agents", "action"), torch.full((4, 3, 2), float("nan")))

    number = 3
"""


@pytest.fixture
def policies(tmp_path):
    (tmp_path / "scripts").mkdir()
    file = tmp_path / "scripts" / "my_policies.py"
    file.write_text(textwrap.dedent(POLICIES))
    return file


@pytest.mark.parametrize(("name", "value"), [("Lazy", 0.25), ("make", 0.25), ("half", 0.5)])
def test_record_from_a_file(tmp_path, run, policies, name, value):
    out = tmp_path / "data"
    code, said, error = run(
        "record", "--out", out, "--policy", f"{policies}:{name}", "--transitions", "22", *BALANCE
    )
    assert code == 0, error
    dataset = OfflineDataset(out)
    assert (dataset.metadata.transitions, dataset.metadata.episodes) == (25, 5)
    assert (dataset.data["agents", "action"] == value).all()
    assert dataset.metadata.source["policy"].endswith(f":{name}")
    assert f"written to {out}" in said


def test_record_from_a_module(tmp_path, run, policies, monkeypatch):
    monkeypatch.chdir(policies.parent)
    out = tmp_path / "data"
    code, _, error = run(
        "record", "--out", out, "--policy", "my_policies:half", "--episodes", "1", *BALANCE
    )
    assert code == 0, error
    assert len(OfflineDataset(out)) == 5


def test_seeds_tell_recordings_apart(tmp_path, run):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        arguments = ["--policy", "random", "--episodes", "6", "--seed", seed]
        assert run("record", "--out", tmp_path / name, *arguments, *BALANCE)[0] == 0
    a, b, c = (OfflineDataset(tmp_path / name).metadata for name in "abc")
    assert a.to_json() == b.to_json()
    assert a.checksum != c.checksum


MISTAKES = {
    "no source": (["--episodes", "3"], "either --checkpoint or --task"),
    "two sources": (
        ["--episodes", "3", "--task", "vmas/balance", "--checkpoint", "x"], "either --checkpoint",
    ),
    "no policy": (["--episodes", "3", *BALANCE], "--policy with --task"),
    "no size": (["--policy", "random", *BALANCE], "either --transitions or --episodes"),
    "two sizes": (
        ["--policy", "random", "--episodes", "3", "--transitions", "3", *BALANCE],
        "either --transitions or --episodes",
    ),
    "size": (["--policy", "random", "--episodes", "0", *BALANCE], "--episodes"),
    "size's type": (["--policy", "random", "--episodes", "x", *BALANCE], "--episodes"),
    "num_envs": (["--policy", "random", "--num-envs", "0", *BALANCE[:2]], "--num-envs"),
    "seed": (["--policy", "random", "--seed", "-1", *BALANCE], "--seed"),
    "exploration": (
        ["--policy", "random", "--exploration", "x", "--episodes", "1", *BALANCE], "found 'x'",
    ),
    "task": (
        ["--policy", "random", "--episodes", "1", "--task", "vmas/balanse"],
        "did you mean vmas/balance",
    ),
    "option": (["--policy", "random", "--episodes", "1", *BALANCE, "colour=red"], "'colour=red'"),
    "no option": (["--policy", "random", "--episodes", "1", *BALANCE, "n_agents"], "key=value"),
    "option's type": (
        ["--policy", "random", "--episodes", "1", *BALANCE, "n_agents=two"], "n_agents to be int",
    ),
    "no such option": (["--colour", "red"], "No such option"),
    "module": (["--policy", "nowhere:x", "--episodes", "1", *BALANCE], "a module 'nowhere'"),
    "no suffix": (["--policy", "./pol:act", "--episodes", "1", *BALANCE], "that ends in .py"),
    "file": (["--policy", "nowhere.py:x", "--episodes", "1", *BALANCE], "a Python file"),
    "name": (["--policy", "{policies}:x", "--episodes", "1", *BALANCE], "found no such name"),
    "no name": (["--policy", "{policies}", "--episodes", "1", *BALANCE], "module:name"),
    "no callable": (["--policy", "{policies}:number", "--episodes", "1", *BALANCE], "be called"),
    "bounds": (["--policy", "{policies}:wild", "--episodes", "1", *BALANCE], "actions in [-1, 1]"),
    "nan": (["--policy", "{policies}:nan", "--episodes", "1", *BALANCE], "finite actions"),
    "no checkpoint": (["--checkpoint", "nowhere.pt", "--episodes", "1"], "none at nowhere.pt"),
    "no experiment": (["--checkpoint", "{policies}", "--episodes", "1"], "config.pkl"),
    "checkpoint's policy": (
        ["--checkpoint", "{policies}", "--policy", "random", "--episodes", "1"], "with --task only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, run, policies, kind):
    arguments, message = MISTAKES[kind]
    arguments = [argument.format(policies=policies) for argument in arguments]
    before = sorted(tmp_path.rglob("*"))
    code, said, error = run("record", "--out", tmp_path / "new" / "data", *arguments)
    assert code == 1
    assert error.splitlines()[-1].startswith("error: ")
    assert message in error
    assert error.count("error:") == 1
    assert "Traceback" not in error + said
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before


@pytest.mark.parametrize("text", ["1e-2", "0.01", "1.0e-2"])
def test_floats_are_written_as_people_do(text):
    task = find_task("coordination/bandit", [f"noise={text}"])
    assert task.config["noise"] == 0.01


def test_nothing_is_overwritten(tmp_path, run):
    code, _, error = run(
        "record", "--out", tmp_path, "--policy", "random", "--episodes", "1", *BALANCE
    )
    assert (code, "nothing is yet" in error) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_recording_leaves_no_dataset(tmp_path, end):
    command = [
        sys.executable, "-c", "from benchmarl_ssd.cli import main; main()", "record",
        "--out", str(tmp_path / "data"), "--policy", "random", "--transitions", "100000000",
        *BALANCE,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("action.memmap")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(end)
    _, error = process.communicate(timeout=60)
    assert not (tmp_path / "data").exists()
    assert not list(tmp_path.rglob("metadata.json"))
    if end != signal.SIGKILL:
        assert process.returncode == 1
        assert error.splitlines()[-1] == "error: interrupted; nothing was written"
        assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------- recipes


def test_build_and_list(tmp_path, run):
    arguments = ["coordination/bandit/modes", "--root", tmp_path, "--transitions", "100"]
    code, said, error = run("build", *arguments, "--seed", "3")
    assert code == 0, error
    path = said.strip()
    assert path.startswith(str(tmp_path))
    assert OfflineDataset(path).metadata.source["seed"] == 3
    assert run("build", *arguments, "--seed", "3")[1] == said
    row, said = listed(run, tmp_path, "coordination/bandit/modes")
    assert row == ["coordination/bandit/modes", "20,000", *"-----", "no"]  # not its own size
    assert run("build", arguments[0], "--root", tmp_path)[0] == 0
    row, said = listed(run, tmp_path, "coordination/bandit/modes")
    assert row[:5] == ["coordination/bandit/modes", "20,000", "1.2", "MB", "1.00"]
    assert row[-2:] == ["1.00", "yes"]
    assert str(tmp_path) in said


def listed(run, root, id):
    """A recipe's row in the list, and all of it."""
    code, said, error = run("datasets", "--root", root)
    assert code == 0, error
    (row,) = (line for line in said.splitlines() if line.startswith(f"{id} "))
    return row.split(), said


def test_the_list_is_narrow_and_marks_what_is_expected(tmp_path, run):
    row, said = listed(run, tmp_path, "mpe/cooperative_navigation/medium-replay")
    returns = get_recipe("mpe/cooperative_navigation/medium-replay").expected_return
    expected = [f"~{returns.mean:.2f}", f"~{returns.best:.2f}"]
    assert row[1:] == ["1,000,000", "-", *expected, "159.80", "516.80", "no"]
    assert all(len(line) <= 120 for line in said.splitlines() if str(tmp_path) not in line)
    assert said.count("\ntask=mpe/world\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_list_as_json(tmp_path, run):
    assert run("build", "coordination/bandit/modes", "--root", tmp_path)[0] == 0
    code, said, _ = run("datasets", "--json", "--root", tmp_path)
    assert code == 0
    entries = {entry["id"]: entry for entry in json.loads(said)}
    entry = entries["coordination/bandit/modes"]
    metadata = OfflineDataset(entry["path"]).metadata
    assert (entry["task"], entry["built"]) == ("coordination/bandit", True)
    assert (entry["transitions"], entry["bytes"]) == (20_000, metadata.size)
    assert entry["return"]["mean"] == metadata.episode_return["mean"]
    assert (entry["return_is"], entry["references"]) == ("measured", metadata.references)
    entry = entries["mpe/world/expert"]
    assert (entry["task"], entry["built"], entry["bytes"]) == ("mpe/world", False, None)
    assert (entry["return_is"], entry["error"]) == ("expected", None)
    assert entry["return"]["mean"] == pytest.approx(entry["references"]["expert"], abs=0.01)


def test_a_damaged_dataset_is_listed_as_such(tmp_path, run):
    path = run("build", "coordination/bandit/modes", "--root", tmp_path)[1].strip()
    (Path(path) / "metadata.json").write_text("{")
    row, _ = listed(run, tmp_path, "coordination/bandit/modes")
    assert row[-1] == "damaged"
    entries = json.loads(run("datasets", "--json", "--root", tmp_path)[1])
    (entry,) = (e for e in entries if e["id"] == "coordination/bandit/modes")
    assert entry["built"] is None
    assert "expected JSON in metadata.json" in entry["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "coordination/bandit/mode"], "did you mean coordination/bandit/modes?"),
        (["build", "mpe/world/meduim"], "mpe/world/expert, mpe/world/medium, "),
        (["build", "coordination/bandit/modes", "--transitions", "0"], "--transitions"),
        (["build", "coordination/bandit/modes", "--seed", "-1"], "--seed"),
        (["biuld", "x"], "No such command"),
    ],
)
def test_mistakes_in_building_are_one_line(tmp_path, run, monkeypatch, arguments, message):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path))
    code, _, error = run(*arguments)
    assert (code, message in error, len(error.splitlines())) == (1, True, 1)
    assert list(tmp_path.iterdir()) == []


def test_help_and_version(run):
    code, said, _ = run("--help")
    assert code == 0
    assert all(command in said for command in ("record", "build", "datasets"))
    for command in ("record", "build", "datasets"):
        assert run(command, "--help")[0] == 0
    code, said, _ = run("--version")
    assert (code, said.strip()) == (0, "0.1.0")


def test_a_run_leaves_torch_as_it_was(tmp_path, run):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    run("record", "--out", tmp_path / "d", "--policy", "random", "--episodes", "1", *BALANCE)
    assert torch.equal(torch.rand(2), expected)
