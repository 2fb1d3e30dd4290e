"""Tasks: environments that BenchMARL can select by name, and the data recipes on them."""

from benchmarl_ssd.environments.common import (
    OfflineTask,
    SuccessMixin,
    TaskOptionError,
    changed_options,
)
from benchmarl_ssd.environments.coordination import CoordinationClass, CoordinationTask
from benchmarl_ssd.environments.coordination import recipes as _recipes  # noqa: F401  (registers)
from benchmarl_ssd.environments.logged import (
    LoggedClass,
    LoggedTask,
    NamedLoggedTask,
    named_tasks,
)
from benchmarl_ssd.environments.mpe import MpeClass, MpeTask
from benchmarl_ssd.environments.mpe import recipes as _mpe_recipes  # noqa: F401  (registers)

tasks: list[type[OfflineTask]] = [CoordinationTask, LoggedTask, MpeTask]
"""The task enums that registration makes known to BenchMARL."""

__all__ = [
    "CoordinationClass",
    "CoordinationTask",
    "LoggedClass",
    "LoggedTask",
    "MpeClass",
    "MpeTask",
    "NamedLoggedTask",
    "OfflineTask",
    "SuccessMixin",
    "TaskOptionError",
    "changed_options",
    "named_tasks",
    "tasks",
]
