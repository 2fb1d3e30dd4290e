"""What a user has after ``pip install``: one wheel in one fresh environment, and stock commands.

Every command runs from a folder of its own, far from the repository, with the installed wheel only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]  # one environment for all

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = "coordination/bandit/modes"
TINY = (
    "experiment.max_n_iters=2",
    "experiment.off_policy_n_optimizer_steps=2",
    "experiment.off_policy_train_batch_size=16",
    "experiment.evaluation_interval=1",
    "experiment.evaluation_episodes=4",
    "experiment.checkpoint_interval=1",
    "model.num_cells=[8]",
    "critic_model.num_cells=[8]",
)
OFFLINE = ("experiment=offline", "algorithm.final_evaluation_episodes=4", *TINY)


class Installation:
    """A fresh environment with nothing but the wheel and what it needs."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        self.root = folder / "recipes"
        self.variables = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HYDRA"))},
            "BENCHMARL_SSD_ROOT": str(self.root),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, program: str, *arguments, cwd: Path, code: int = 0) -> str:
        """Run a program of the environment; return all that it says."""
        cwd.mkdir(parents=True, exist_ok=True)
        result = subprocess.run(
            [str(self.bin / program), *map(str, arguments)],
            cwd=cwd,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=550,
            check=False,
        )
        assert result.returncode == code, result.stdout
        return result.stdout

    def stock(self, command: str, *arguments, cwd: Path, code: int = 0) -> str:
        """Run one of BenchMARL's own commands."""
        return self.run("python", "-m", f"benchmarl.{command}", *arguments, cwd=cwd, code=code)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installation:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "env")], check=True)
    environment = Installation(folder)
    constraints = REPOSITORY / "constraints.txt"
    pip = ("-m", "pip", "install", "--quiet", "--constraint", constraints)
    environment.run("python", *pip, wheel, cwd=folder)
    return environment


@pytest.fixture(scope="module")
def first_run(installed, tmp_path_factory) -> tuple[str, Path]:
    """What the README's command said, and the folder it was run in."""
    folder = tmp_path_factory.mktemp("first")
    task = ("task=coordination/bandit", f"algorithm.dataset={RECIPE}")
    said = installed.stock("run", "algorithm=ssd", *task, *OFFLINE, cwd=folder)
    return said, folder


@pytest.fixture
def copied_run(first_run, tmp_path) -> Path:
    """The run's own folder in a copy that the test may change."""
    shutil.copytree(first_run[1], tmp_path / "copy")
    (summary,) = (tmp_path / "copy").rglob("summary.json")
    return summary.parent


def test_wheel_holds_the_package_the_plugin_and_the_configs_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {f"benchmarl_ssd/{path.relative_to(REPOSITORY).as_posix()}"
               for path in (REPOSITORY / "conf").rglob("*.yaml")}  # fmt: skip
    assert "benchmarl_ssd/conf/algorithm/ssd.yaml" in configs
    assert configs == {name for name in names if name.endswith(".yaml")}
    plugins = [name for name in names if name.startswith("hydra_plugins/")]
    assert plugins == [
        "hydra_plugins/benchmarl_ssd.py"
    ]  # an __init__.py would hide others' plugins
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "benchmarl_ssd",
        "hydra_plugins",
    }
    assert not any(re.search(r"(^|/)(tests?/|test_|conftest)", name) for name in names)
    (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(entry_points).decode()
    assert "[hydra.plugins]" in text
    assert "benchmarl-ssd = benchmarl_ssd.cli:main" in text


def test_stock_run_builds_the_recipe_and_says_so(first_run, installed):
    said, folder = first_run
    assert "Algorithm: ssd, Task: coordination/bandit" in said
    assert said.count(f"building the dataset of recipe {RECIPE} in {installed.root}") == 1
    assert len(list(installed.root.rglob("metadata.json"))) == 1
    (path,) = folder.rglob("summary.json")
    assert str(path) in said
    summary = json.loads(path.read_text())
    assert (summary["algorithm"], summary["task"]) == ("ssd", "coordination/bandit")
    assert summary["steps"] == 4
    assert summary["dataset"]["id"] == RECIPE
    assert summary["final"]["episodes"] == 4
    assert {file.name for file in (path.parent / "checkpoints").iterdir()} == {
        "checkpoint_1.pt",
        "checkpoint_2.pt",
    }
    assert (path.parent.parent / ".hydra" / "overrides.yaml").is_file()
    assert "Traceback" not in said


def test_multirun(first_run, installed, tmp_path):
    task = ("task=coordination/bandit", f"algorithm.dataset={RECIPE}")
    run = ("run", "--multirun", "algorithm=ssd", "seed=0,1")
    said = installed.stock(*run, *task, *OFFLINE, cwd=tmp_path)
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert sorted(summary["seed"] for summary in summaries) == [0, 1]
    assert "building the dataset" not in said  # it was there already


def test_multirun_over_algorithms(first_run, installed, tmp_path):
    """Of a group that is swept, Hydra wants options with ++; so it does for BenchMARL's own."""
    task = ("task=coordination/bandit", f"++algorithm.dataset={RECIPE}")
    offline = [f"++{option}" if option.startswith("algorithm.") else option for option in OFFLINE]
    installed.stock("run", "--multirun", "algorithm=bc,ssd", *task, *offline, cwd=tmp_path)
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert sorted(summary["algorithm"] for summary in summaries) == ["bc", "ssd"]
    assert {summary["dataset"]["id"] for summary in summaries} == {RECIPE}
    assert {summary["final"]["episodes"] for summary in summaries} == {4}


def test_resume_from_another_folder(copied_run, installed, tmp_path):
    before = json.loads((copied_run / "summary.json").read_text())
    (copied_run / "summary.json").unlink()
    checkpoint = copied_run / "checkpoints" / "checkpoint_1.pt"
    said = installed.stock("resume", checkpoint, cwd=tmp_path / "elsewhere")
    assert "Reloaded experiment" in said
    after = json.loads((copied_run / "summary.json").read_text())
    for key in ("steps", "final", "best", "dataset"):  # as if it had not been interrupted
        assert after[key] == before[key]
    assert not list((tmp_path / "elsewhere").iterdir())


def test_evaluate_from_another_folder(copied_run, installed, tmp_path):
    before = (copied_run / "summary.json").read_bytes()
    checkpoint = copied_run / "checkpoints" / "checkpoint_2.pt"
    said = installed.stock("evaluate", checkpoint, cwd=tmp_path / "elsewhere")
    assert "Evaluation results logged" in said
    assert (copied_run / "summary.json").read_bytes() == before
    assert not list((tmp_path / "elsewhere").iterdir())


def test_python_users(first_run, installed, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from pathlib import Path
            import benchmarl_ssd
            from benchmarl.experiment import Experiment, ExperimentConfig
            from benchmarl.models import MlpConfig
            from benchmarl_ssd import conf_dir
            from benchmarl_ssd.algorithms import SsdConfig
            from benchmarl_ssd.environments import CoordinationTask

            assert all(Path(sys.prefix) in Path(path).parents
                       for path in (benchmarl_ssd.__file__, conf_dir()))
            algorithm = SsdConfig.get_from_yaml()
            algorithm.dataset = "coordination/bandit/modes"
            algorithm.final_evaluation_episodes = 4
            config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment/offline.yaml"))
            config.max_n_iters = 2
            config.off_policy_n_optimizer_steps = 2
            config.checkpoint_interval = 1
            experiment = Experiment(
                task=CoordinationTask.BANDIT.get_from_yaml(),
                algorithm_config=algorithm,
                model_config=MlpConfig.get_from_yaml(),
                seed=0,
                config=config,
            )
            experiment.run()
            checkpoint = experiment.folder_name / "checkpoints" / "checkpoint_1.pt"
            again = Experiment.reload_from_file(str(checkpoint))
            assert again.n_iters_performed == 1
            again.run()
            print("reloaded and finished at", again.n_iters_performed)
        """)
    )
    said = installed.run("python", script, cwd=tmp_path)
    assert "reloaded and finished at 2" in said
    # A later process that does not import us finds the algorithm all the same, without Hydra too.
    (checkpoint,) = tmp_path.rglob("checkpoint_2.pt")
    said = installed.stock("evaluate", checkpoint, cwd=tmp_path / "elsewhere")
    assert "Reloaded experiment" in said
    assert "Evaluation results logged" in said


def test_a_stock_task_with_a_recorded_dataset(installed, tmp_path):
    record = ("record", "--task", "vmas/balance", "--policy", "random", "--episodes", 4)
    options = ("--num-envs", 4, "--out", "data/balance")
    installed.run("benchmarl-ssd", *record, *options, "max_steps=5", cwd=tmp_path)
    run = ("run", "algorithm=ssd", "task=vmas/balance", "task.max_steps=5", *OFFLINE)
    said = installed.stock(*run, "algorithm.dataset=data/balance", cwd=tmp_path)
    assert "Traceback" not in said
    (path,) = tmp_path.rglob("summary.json")
    summary = json.loads(path.read_text())
    assert summary["task"] == "vmas/balance"
    assert summary["dataset"]["transitions"] <= 20
    # The dataset was given by a relative path, and is found again from another folder.
    checkpoint = path.parent / "checkpoints" / "checkpoint_1.pt"
    installed.stock("resume", checkpoint, cwd=tmp_path / "elsewhere")


def test_wrong_dataset_is_one_line(installed, tmp_path):
    wrong = "algorithm.dataset=/no/such/dataset"
    run = ("run", "algorithm=ssd", "task=coordination/bandit", "experiment=offline", wrong)
    said = installed.stock(*run, cwd=tmp_path, code=1)
    assert "Traceback" not in said
    _, _, error = said.partition("Error executing job with overrides:")
    lines = [line for line in error.splitlines()[1:] if line.strip()]
    assert re.match("expected .*found '/no/such/dataset'", lines[0])
    assert lines[1:] == [
        "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."
    ]
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {"run.log", "config.yaml", "hydra.yaml", "overrides.yaml"}  # Hydra's own


def test_an_unrelated_hydra_application_does_not_pay_for_us(installed, tmp_path):
    (tmp_path / "config.yaml").write_text("greeting: hello\n")
    script = tmp_path / "application.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            import hydra
            @hydra.main(version_base=None, config_path=".", config_name="config")
            def main(config):
                print(config.greeting)
            main()
            assert "hydra_plugins.benchmarl_ssd" in sys.modules
            heavy = {"torch", "tensordict", "torchrl", "benchmarl", "benchmarl_ssd", "vmas"}
            print("imported:", sorted(heavy & set(sys.modules)))
        """)
    )
    assert installed.run("python", script, cwd=tmp_path).splitlines() == ["hello", "imported: []"]
    said = installed.run("python", script, "--info", "searchpath", cwd=tmp_path)
    assert "benchmarl" not in said


def test_benchmarls_own_algorithms_run_as_before(installed, tmp_path):
    tiny = (
        "experiment.max_n_iters=1",
        "experiment.max_n_frames=null",
        "experiment.loggers=[csv]",
        "experiment.evaluation=false",
        "experiment.on_policy_collected_frames_per_batch=20",
        "experiment.on_policy_n_envs_per_worker=2",
        "experiment.on_policy_n_minibatch_iters=1",
        "experiment.on_policy_minibatch_size=20",
    )
    said = installed.stock("run", "algorithm=mappo", "task=vmas/balance", *tiny, cwd=tmp_path)
    assert "Traceback" not in said
    assert "benchmarl-ssd" not in said
    (folder,) = (path.parent for path in tmp_path.rglob("config.pkl"))
    assert folder.name.startswith("mappo_balance_")
    assert list(folder.rglob("scalars/*.csv"))
