"""The example that compares through BenchMARL's Benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "compare.py"


@pytest.mark.slow
def test_the_example_reports_on_its_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path / "root"))
    spec = importlib.util.spec_from_file_location("compare_example", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = module.main(tmp_path / "out", seeds=1, iterations=1)
    assert "### coordination/bandit, modes" in text
    assert "100 optimiser steps of 512 transitions" in text
    assert all(f"| {name} | 1 | " in text for name in ("bc", "ssd"))
