"""The published numbers of ``examples/extraction`` are what its script measures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "extraction"
CONTENT = json.loads((FOLDER / "tension.json").read_text())
SRPO, DEFAULT = "sigma2, all t (SRPO)", "alpha/sigma, sliding (default)"


@pytest.fixture(scope="module")
def tension():
    spec = importlib.util.spec_from_file_location("extraction_tension", FOLDER / "tension.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close(found, expected):
    """Same structure, numbers within what another machine's arithmetic may change."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            close(found[key], expected[key]) for key in expected
        )
    return found == pytest.approx(expected, rel=0.02, abs=2e-3)


@pytest.mark.parametrize("name", [SRPO, DEFAULT])
def test_numbers_are_those_of_the_script(tension, name):
    published, setting = CONTENT["settings"][name], tension.SETTINGS[name]
    curves = {str(p): tension.pull(setting, p, tension.GRID) for p in tension.stages(setting)}
    assert close({p: curve.tolist() for p, curve in curves.items()}, published["pull"])
    assert published["landed"]["2"] == tension.landed(setting, 2)
    for width, found in published["spread"].items():
        assert close(tension.spread(setting, float(width)), found)
    found = tension.displacements(setting, {})
    assert close(found, {width: published["displaced"][width] for width in found})


def test_every_setting_and_the_table_are_published(tension):
    assert list(CONTENT["settings"]) == list(tension.SETTINGS)
    assert tension.table(CONTENT) in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert (FOLDER / "tension.png").stat().st_size < 150_000


def test_the_defaults_coordinate_where_srpo_does_not():
    landed = {name: found["landed"] for name, found in CONTENT["settings"].items()}
    assert set(landed[SRPO].values()) == {0}
    assert set(landed[DEFAULT].values()) == {20}
