"""The README's Python runs, and what it says of options is what the configs say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_python_blocks_run(index, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARL_SSD_ROOT", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[index], f"README block {index}", "exec"), {"__name__": "readme"})


def test_there_are_blocks():
    assert len(BLOCKS) == 3


def test_option_table_gives_the_real_defaults():
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `(.*?)` \|", README, re.MULTILINE)
    assert len(rows) >= 8
    files = {"algorithm": "algorithm/ssd.yaml", "experiment": "experiment/offline.yaml"}
    for group, key, shown in rows:
        if group in files:
            config = yaml.safe_load((ROOT / "conf" / files[group]).read_text())
            assert yaml.safe_load(shown) == config[key], (group, key)


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("coordination/run", "table"),
        ("coordination/conventions", "table"),
        ("offline_mpe/run", "table"),
        ("offline_mpe/run", "agreement_table"),
    ],
)
def test_results_are_those_of_the_committed_runs(script, table):
    source = ROOT / "examples" / f"{script}.py"
    spec = importlib.util.spec_from_file_location(script.replace("/", "_"), source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert getattr(module, table)() in README


def test_demo_table_is_the_committed_one():
    assert (ROOT / "examples" / "demo" / "table.md").read_text().strip() in README
