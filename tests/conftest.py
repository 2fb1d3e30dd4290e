"""Settings that all tests share."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RL_WARNINGS", "False")
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

torch.set_num_threads(1)
warnings.filterwarnings("ignore", category=UserWarning, module="torchrl")

# Helpers beside the tests are imported by name.
for folder in ("comparison", "objectives", "environments", "algorithms", "data"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
