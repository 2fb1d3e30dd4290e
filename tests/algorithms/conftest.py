from __future__ import annotations

from pathlib import Path

import pytest
from runs import fingerprint

from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.environments import CoordinationTask


@pytest.fixture(scope="session")
def bandit_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    return build("coordination/bandit/modes", root=root, transitions=2000, progress=False)


@pytest.fixture(scope="session")
def apples_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    return build("coordination/two_apples/coin-flip", root=root, transitions=2500, progress=False)


@pytest.fixture
def bandit():
    return CoordinationTask.BANDIT.get_from_yaml()


@pytest.fixture
def two_apples():
    return CoordinationTask.TWO_APPLES.get_from_yaml()


@pytest.fixture
def untouched(bandit_data, apples_data):
    """The users' folders are byte-identical before and after whatever the test does."""
    before = [fingerprint(folder) for folder in (bandit_data, apples_data)]
    yield
    assert [fingerprint(folder) for folder in (bandit_data, apples_data)] == before
