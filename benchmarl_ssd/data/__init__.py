"""Datasets of logged multi-agent experience: their format, their buffers, their recording."""

from benchmarl_ssd.data.buffer import OfflineReplayBuffer
from benchmarl_ssd.data.dataset import OfflineDataset
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
    "build",
    "export",
    "from_arrays",
    "get_recipe",
    "record",
    "register_recipe",
    "resolve",
    "validate",
]
