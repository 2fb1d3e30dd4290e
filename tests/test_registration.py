"""That BenchMARL and Hydra know our names, and that nothing else changes for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import warnings
from dataclasses import MISSING, fields
from importlib import metadata
from pathlib import Path

import benchmarl.algorithms
import benchmarl.environments
import pytest
import yaml
from benchmarl.environments import VmasTask
from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.hydra_config import (
    load_algorithm_config_from_hydra,
    load_experiment_config_from_hydra,
    load_task_config_from_hydra,
)
from benchmarl.models import MlpConfig
from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException

from benchmarl_ssd import conf_dir, register, registration
from benchmarl_ssd._compat import check_versions
from benchmarl_ssd.algorithms import algorithm_config_registry
from benchmarl_ssd.environments import TaskOptionError, tasks

ALGORITHMS = sorted(algorithm_config_registry)
TASKS = {f"{env.env_name()}/{task.name.lower()}": task for env in tasks for task in env}
YAMLS = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml"))
TINY = (
    "experiment.max_n_iters=1",
    "experiment.max_n_frames=null",
    "experiment.loggers=[]",
    "experiment.create_json=false",
    "experiment.evaluation=false",
    "experiment.on_policy_collected_frames_per_batch=20",
    "experiment.on_policy_n_envs_per_worker=2",
    "experiment.on_policy_n_minibatch_iters=1",
    "experiment.on_policy_minibatch_size=20",
    "model.num_cells=[8]",
)


def composed(*overrides):
    with initialize_config_module("benchmarl.conf", version_base=None):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def python(*arguments, cwd, path=None) -> subprocess.CompletedProcess:
    # A data root of its own: datasets below the user's would be tasks (`logged/NAME`).
    root = str(Path(cwd) / "root")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BENCHMARL_SSD_ROOT": root}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def registries() -> dict[str, dict]:
    store = ConfigStore.instance().repo
    return {
        "algorithms": dict(benchmarl.algorithms.algorithm_config_registry),
        "tasks": dict(benchmarl.environments.task_config_registry),
        "task classes": dict(benchmarl.environments._task_class_registry),
        "algorithm schemas": dict(store["algorithm"]),
        "task schemas": dict(store["task"]),
        "modules": {k: v for k, v in sys.modules.items() if k.startswith("benchmarl.")},
    }


class TestRegistries:
    def test_hold_our_names(self):
        known = registries()
        assert known["algorithms"].items() >= algorithm_config_registry.items()
        assert known["tasks"].items() >= TASKS.items()
        assert known["algorithm schemas"].keys() >= {f"{name}_config.yaml" for name in ALGORITHMS}
        names = {task.replace("/", "_") for task in TASKS}
        assert known["task classes"].keys() >= names
        assert known["task schemas"].keys() >= {f"{name}_config.yaml" for name in names}

    def test_registering_twice_changes_nothing(self):
        before = registries()
        nodes = {k: v.node for k, v in before["algorithm schemas"].items()}
        register()
        register()
        after = registries()
        assert {k: v.node for k, v in after["algorithm schemas"].items()} == nodes
        for name in before:
            assert before[name].keys() == after[name].keys()
            if "schemas" not in name:
                assert all(after[name][key] is value for key, value in before[name].items())

    def test_importing_us_replaces_nothing(self, tmp_path):
        """Seen from outside, in a process in which BenchMARL was there first."""
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent("""
                import sys
                import benchmarl, benchmarl.environments as envs
                from hydra.core.config_store import ConfigStore
                def look():
                    repo = ConfigStore.instance().repo
                    yield dict(benchmarl.algorithms.algorithm_config_registry)
                    yield dict(envs.task_config_registry)
                    yield dict(envs._task_class_registry)
                    yield {k: v for group in ("algorithm", "task", "experiment")
                           for k, v in repo[group].items()}
                    yield {k: v for k, v in sys.modules.items() if k.startswith("benchmarl.")}
                before = list(look())
                import benchmarl_ssd
                for old, new in zip(before, look()):
                    assert all(new[key] is value for key, value in old.items())
                    print(sorted(set(new) - set(old)))
            """)
        )
        result = python(script, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        algorithms, our_tasks, *_ = result.stdout.splitlines()
        assert algorithms == str(ALGORITHMS)
        assert our_tasks == str(sorted(TASKS))

    def test_a_name_that_is_taken_is_an_error(self, monkeypatch):
        """A later BenchMARL may bring its own `bc`: ours must not silently replace it."""
        registry = benchmarl.algorithms.algorithm_config_registry
        monkeypatch.setitem(registry, "bc", registry["mappo"])
        with pytest.raises(ImportError, match=r"benchmarl-ssd .* 'bc'"):
            registration.register()
        assert registry["bc"] is registry["mappo"]


class TestHydraEqualsYaml:
    """As BenchMARL's own tests ask of its algorithms and tasks."""

    @pytest.mark.parametrize("name", ALGORITHMS)
    @pytest.mark.parametrize("experiment", ["offline", "base_experiment"])
    def test_algorithm(self, name, experiment):
        config = composed(f"algorithm={name}", "task=vmas/balance", f"experiment={experiment}")
        loaded = load_algorithm_config_from_hydra(config.algorithm)
        assert type(loaded) is algorithm_config_registry[name]
        assert loaded == algorithm_config_registry[name].get_from_yaml()
        assert loaded.dataset is None

    @pytest.mark.parametrize("name", TASKS)
    def test_task(self, name):
        config = composed("algorithm=ssd", f"task={name}", "experiment=offline")
        assert config.hydra.runtime.choices.task == name
        with warnings.catch_warnings():  # "TaskConfig python dataclass not found", for one
            warnings.simplefilter("error")
            loaded = load_task_config_from_hydra(config.task, task_name=name)
            assert loaded == TASKS[name].get_from_yaml()

    @pytest.mark.parametrize("name", TASKS)
    def test_benchmarls_algorithms_find_our_tasks(self, name):
        config = composed("algorithm=mappo", f"task={name}")
        assert load_task_config_from_hydra(config.task, name) == TASKS[name].get_from_yaml()

    def test_experiment(self):
        config = composed("algorithm=ssd", "task=vmas/balance", "experiment=offline")
        path = str(conf_dir() / "experiment" / "offline.yaml")
        loaded = load_experiment_config_from_hydra(config.experiment)
        assert loaded == ExperimentConfig.get_from_yaml(path)
        loaded.validate(on_policy=False)

    def test_stock_configs_are_still_benchmarls(self):
        config = composed("algorithm=mappo", "task=vmas/balance")
        loaded = load_algorithm_config_from_hydra(config.algorithm)
        assert loaded == benchmarl.algorithms.MappoConfig.get_from_yaml()
        assert load_experiment_config_from_hydra(config.experiment) == (
            ExperimentConfig.get_from_yaml()
        )
        task = load_task_config_from_hydra(config.task, "vmas/balance")
        assert task == VmasTask.BALANCE.get_from_yaml()


class TestConfigFiles:
    def test_offline_has_benchmarls_keys_and_types(self):
        offline, base = (
            ExperimentConfig.get_from_yaml(path).__dict__
            for path in (str(conf_dir() / "experiment" / "offline.yaml"), None)
        )
        assert list(offline) == list(base)  # the same keys in the same order: easy to compare
        text = (conf_dir() / "experiment" / "offline.yaml").read_text()
        assert set(keys_of(text)) == set(base)
        for key, value in base.items():
            if value is not None and offline[key] is not None:
                assert type(offline[key]) is type(value), key

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_an_algorithms_yaml_has_its_configs_keys(self, name):
        text = (conf_dir() / "algorithm" / f"{name}.yaml").read_text()
        config = algorithm_config_registry[name]
        assert sorted(keys_of(text)) == sorted(field.name for field in fields(config))
        assert yaml.safe_load(text)["defaults"] == [f"{name}_config", "_self_"]
        # A default in the code would be a second place that says what the default is.
        assert all(f.default in (MISSING, "???") for f in fields(config))

    @pytest.mark.parametrize("file", YAMLS)
    def test_every_key_has_a_comment_above_it(self, file):
        lines = (conf_dir() / file).read_text().splitlines()
        keys = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
        bare = [
            lines[i]
            for i in keys
            if not lines[i].startswith("defaults:") and not lines[i - 1].startswith("# ")
        ]
        assert not bare

    def test_every_yaml_is_of_something_we_register(self):
        ours = {f"algorithm/{name}.yaml" for name in ALGORITHMS}
        ours |= {f"task/{name}.yaml" for name in TASKS} | {"experiment/offline.yaml"}
        assert set(YAMLS) == ours


def keys_of(text: str) -> list[str]:
    return [key for key in yaml.safe_load(text) if key != "defaults"]


class TestWrongOverrides:
    @pytest.mark.parametrize(
        "override",
        [
            "algorithm.nothing=1",
            "algorithm.final_evaluation_episodes=many",
            "task.nothing=1",
            "task.n_agents=several",
            "experiment.nothing=1",
        ],
    )
    def test_unknown_key_or_type(self, override):
        with pytest.raises(HydraException, match=override.split("=")[0].strip("+").split(".")[1]):
            composed("algorithm=ssd", "task=coordination/bandit", "experiment=offline", override)

    @pytest.mark.parametrize("part", ["algorithm", "task"])
    def test_unknown_key_that_is_added_nonetheless(self, part, tmp_path):
        """Hydra itself suggests the plus; what it then lets through must not go unnoticed."""
        overrides = ("algorithm=ssd", "task=coordination/bandit", f"+{part}.nothing=1")
        config = composed(*overrides)

        def load_and_start():
            experiment = load_experiment_config_from_hydra(config.experiment)
            experiment.save_folder = str(tmp_path)
            Experiment(
                load_task_config_from_hydra(config.task, "coordination/bandit"),
                load_algorithm_config_from_hydra(config.algorithm),
                MlpConfig.get_from_yaml(),
                seed=0,
                config=experiment,
            )

        with pytest.raises((TypeError, ValueError), match="nothing"):
            load_and_start()

    def test_unknown_names_are_told_with_the_known(self):
        with pytest.raises(MissingConfigException, match=r"(?s)algorithm/sdd.*mappo.*ssd"):
            composed("algorithm=sdd", "task=coordination/bandit")
        with pytest.raises(MissingConfigException, match=r"(?s)task/coordination/x.*two_apples"):
            composed("algorithm=ssd", "task=coordination/x")
        assert issubclass(MissingConfigException, ConfigCompositionException)

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_unknown_key_from_python(self, name, tmp_path):
        with pytest.raises(TypeError, match="nothing"):
            algorithm_config_registry[name](nothing=1)
        file = tmp_path / "algorithm.yaml"
        file.write_text((conf_dir() / "algorithm" / f"{name}.yaml").read_text() + "\nnothing: 1\n")
        with pytest.raises(TypeError, match="nothing"):
            algorithm_config_registry[name].get_from_yaml(str(file))

    @pytest.mark.parametrize("name", TASKS)
    def test_unknown_task_key_from_python(self, name):
        with pytest.raises(TaskOptionError, match=r"unknown: \['nothing'\]"):
            TASKS[name].get_with({"nothing": 1})


class TestVersions:
    def test_what_is_installed_fits(self):
        check_versions()
        hosts = {"benchmarl", "torchrl", "tensordict", "hydra-core"}
        required = {
            re.split(r"[<>=!~;\[ ]", text)[0] for text in metadata.requires("benchmarl-ssd")
        }
        assert hosts <= required

    @pytest.mark.parametrize(
        ("requirement", "found"),
        [
            ("torchrl>=0.12,<0.13", metadata.version("torchrl")),
            ("benchmarl<1", metadata.version("benchmarl")),
            ("hydra-core>=2", metadata.version("hydra-core")),
            ("tensordict==0.1.0", metadata.version("tensordict")),
        ],
    )
    def test_out_of_range_is_one_line(self, requirement, found):
        with pytest.raises(ImportError) as error:
            check_versions(["numpy", requirement])
        name, wanted, said, mend = re.fullmatch(
            r"benchmarl-ssd needs ([\w-]+)(\S+), found (\S+); run: pip install \"(.+)\"",
            str(error.value),
        ).groups()
        assert mend == name + wanted
        assert said == found
        assert set(mend.replace(name, "").split(",")) == set(
            requirement.replace(name, "").split(",")
        )

    def test_not_installed_is_the_same_line(self, monkeypatch):
        def missing(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", missing)
        with pytest.raises(ImportError, match=r"needs torchrl>=0\.11, found nothing; run: pip"):
            check_versions(["torchrl>=0.11"])

    def test_extras_and_other_packages_are_not_ours_to_check(self):
        check_versions(['torchrl<0.1; extra == "old"', "numpy<0.1", "pettingzoo==0"])

    def test_a_release_candidate_is_in_range(self, monkeypatch):
        monkeypatch.setattr(metadata, "version", lambda name: "0.11.2rc1")
        check_versions(["torchrl>=0.11,<0.12"])

    def test_a_tree_that_is_not_installed_is_not_checked(self, monkeypatch):
        def missing(name):
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "requires", missing)
        check_versions()


class TestUnusableInstallation:
    """TorchRL has moved on: BenchMARL must go on working, and say what is the matter once."""

    LINE = r'benchmarl-ssd needs torchrl\S+, found 99\.0; run: pip install "torchrl\S+"'

    @pytest.fixture
    def newer_torchrl(self, tmp_path) -> Path:
        (tmp_path / "sitecustomize.py").write_text(
            textwrap.dedent("""
                from importlib import metadata
                version = metadata.version
                metadata.version = lambda name: "99.0" if name == "torchrl" else version(name)
            """)
        )
        return tmp_path

    def test_stock_algorithms_run_and_the_reason_is_said_once(self, newer_torchrl, tmp_path):
        stock = ("-m", "benchmarl.run", "algorithm=mappo", "task=vmas/balance")
        result = python(*stock, *TINY, cwd=tmp_path, path=newer_torchrl)
        assert result.returncode == 0, result.stderr
        assert result.stderr.count("benchmarl-ssd") == 2  # both in the one line
        assert re.search(f"(?m)^benchmarl-ssd is not available: {self.LINE}$", result.stderr)
        assert "benchmarl-ssd" not in result.stdout

    @pytest.mark.slow
    def test_ours_are_unknown_and_the_reason_is_said(self, newer_torchrl, tmp_path):
        stock = ("-m", "benchmarl.run", "algorithm=ssd", "task=vmas/balance")
        result = python(*stock, cwd=tmp_path, path=newer_torchrl)
        assert result.returncode == 1
        assert re.search(f"(?m)^benchmarl-ssd is not available: {self.LINE}$", result.stderr)
        assert "Could not find 'algorithm/ssd'" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.slow
    def test_importing_us_is_an_import_error_of_that_line(self, newer_torchrl, tmp_path):
        result = python("-c", "import benchmarl_ssd", cwd=tmp_path, path=newer_torchrl)
        assert result.returncode == 1
        assert re.fullmatch(f"ImportError: {self.LINE}", result.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_task_with_discrete_actions_only_is_one_clear_error(tmp_path):
    """Through the stock runner; only the task is our invention."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            from benchmarl.environments import Task, VmasClass, task_config_registry
            from benchmarl.run import hydra_experiment
            class DiscreteClass(VmasClass):
                def supports_continuous_actions(self):
                    return False
            class DiscreteTask(Task):
                BALANCE = None
                @staticmethod
                def associated_class():
                    return DiscreteClass
            task_config_registry["vmas/balance"] = DiscreteTask.BALANCE
            hydra_experiment()
        """)
    )
    result = python(
        script, "algorithm=ssd", "task=vmas/balance", "experiment=offline", cwd=tmp_path
    )
    assert result.returncode == 1
    (line,) = (line for line in result.stderr.splitlines() if "not compatible" in line)
    assert "Algorithm ssd (which trains continuous actions only)" in line
    assert "DiscreteClass.BALANCE" in line
    assert not list(tmp_path.rglob("config.pkl"))
