"""The one place that tells BenchMARL and Hydra about our names."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import benchmarl.algorithms
import benchmarl.environments
from hydra.core.config_store import ConfigStore

from benchmarl_ssd.algorithms import algorithm_config_registry
from benchmarl_ssd.environments import NamedLoggedTask, named_tasks, tasks


def register() -> None:
    """Add our algorithms and tasks to BenchMARL's registries and Hydra's config store.

    Nothing of BenchMARL's own is replaced. Calling it again changes nothing.

    Raises:
        ImportError: if BenchMARL, or another package, already has something else of that name.

    Examples:
        >>> register()
        >>> benchmarl.algorithms.algorithm_config_registry["ssd"].__name__
        'SsdConfig'
    """
    store = ConfigStore.instance()
    for name, config_class in algorithm_config_registry.items():
        _add(benchmarl.algorithms.algorithm_config_registry, name, config_class)
        store.store(name=f"{name}_config", group="algorithm", node=config_class)
    for environment in tasks:
        for task in environment.__members__.values():
            _register_task(environment.env_name(), task, store)
    for named in named_tasks().values():
        _register_named_task(named, store)


def _register_task(environment: str, task, store: ConfigStore) -> None:
    name = task.name.lower()
    module = importlib.import_module(f"benchmarl_ssd.environments.{environment}.{name}")
    # BenchMARL looks for a task's config class in a module below its own package. An alias is its
    # way of extension: without one it warns that options go unchecked.
    package = f"benchmarl.environments.{environment}"
    sys.modules.setdefault(package, sys.modules[f"benchmarl_ssd.environments.{environment}"])
    sys.modules.setdefault(f"{package}.{name}", module)
    _add(benchmarl.environments.task_config_registry, f"{environment}/{name}", task)
    _add(benchmarl.environments._task_class_registry, f"{environment}_{name}", module.TaskConfig)
    store.store(name=f"{environment}_{name}_config", group="task", node=module.TaskConfig)


def _register_named_task(task: NamedLoggedTask, store: ConfigStore) -> None:
    environment = task.env_name()
    key = f"{environment}/{task.name}"
    registry = benchmarl.environments.task_config_registry
    known = registry.get(key)
    if known == task:
        return
    # Its options are those of `dataset`, in the same module; only where the data lies differs.
    module = importlib.import_module(f"benchmarl_ssd.environments.{environment}.dataset")
    sys.modules.setdefault(f"benchmarl.environments.{environment}.{task.name}", module)
    if isinstance(known, NamedLoggedTask):  # the data root has changed meanwhile
        del registry[key]
    _add(registry, key, task)
    options = module.TaskConfig(**task.get_from_yaml().config)
    # No yaml can be shipped for a name that only this machine knows; Hydra takes it from here.
    store.store(name=task.name, group=f"task/{environment}", node=options)


def _add(registry: dict, name: str, value: Any) -> None:
    if registry.setdefault(name, value) is not value:
        raise ImportError(
            f"benchmarl-ssd cannot register {name!r}: another package has {registry[name]} there"
        )
