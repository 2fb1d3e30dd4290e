"""Datasets of logged multi-agent experience: their format, their buffers, their recording."""

from benchmarl_ssd.data.auditing import audit
from benchmarl_ssd.data.buffer import OfflineReplayBuffer
from benchmarl_ssd.data.dataset import OfflineDataset
from benchmarl_ssd.data.describing import describe
from benchmarl_ssd.data.editing import merge, split, subset
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.exporting import export
from benchmarl_ssd.data.importers import from_arrays
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.recipes import (
    Recipe,
    RecordingSetup,
    build,
    get_recipe,
    register_recipe,
    resolve,
)
from benchmarl_ssd.data.recording import record
from benchmarl_ssd.data.selecting import Selection
from benchmarl_ssd.data.validation import validate
from benchmarl_ssd.data.writer import DatasetWriter

__all__ = [
    "DatasetError",
    "DatasetMetadata",
    "DatasetWriter",
    "OfflineDataset",
    "OfflineReplayBuffer",
    "Recipe",
    "RecordingSetup",
    "Selection",
    "audit",
    "build",
    "describe",
    "export",
    "from_arrays",
    "get_recipe",
    "merge",
    "record",
    "register_recipe",
    "resolve",
    "split",
    "subset",
    "validate",
]
