"""A small dataset on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarl_ssd.data.recipes import build


@pytest.fixture(scope="session")
def bandit_data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("recipes")
    path = build("coordination/bandit/modes", root, 300, progress=False, config={"n_agents": 3})
    return path.rename(root / "trio")
