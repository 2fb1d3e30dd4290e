"""An import's memory does not grow with its source."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "data" / "import_memory.py"


@pytest.mark.slow
def test_memory_is_flat():
    spec = importlib.util.spec_from_file_location("import_memory", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small, large = module.measure(25_000), module.measure(300_000)
    assert large["dataset_bytes"] > 140e6
    growth = large["peak_resident_bytes"] - small["peak_resident_bytes"]
    assert growth < 60e6
    assert large["peak_resident_bytes"] < 1.5e9
