from __future__ import annotations

import sys
from pathlib import Path

# The helper beside the tests is imported by name.
sys.path.insert(0, str(Path(__file__).parent))
