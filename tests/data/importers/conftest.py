"""Builders of sources, for all tests of importers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
