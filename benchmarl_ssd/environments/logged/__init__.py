"""Tasks without a simulator: all that exists of them is a dataset, which is played back."""

from benchmarl_ssd.environments.logged.common import (
    LoggedClass,
    LoggedTask,
    LoggedTaskError,
    NamedLoggedTask,
    named_tasks,
)
from benchmarl_ssd.environments.logged.playback import PlaybackEnv

__all__ = [
    "LoggedClass",
    "LoggedTask",
    "LoggedTaskError",
    "NamedLoggedTask",
    "PlaybackEnv",
    "named_tasks",
]
