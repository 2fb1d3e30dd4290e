"""What the values of a source are taken for: whose end is the team's, which numbers are choices."""

import numpy as np
import pytest
from import_sources import played

from benchmarl_ssd.data import DatasetError, OfflineDataset, from_arrays


def test_agents_that_end_in_different_ways_end_together(tmp_path):
    """One agent's end and the others' time limit in the same step are the team's end."""
    data = played(lengths=(5, 5, 5, 5), n=2, size=3)
    terminations = np.zeros((20, 2), dtype=bool)
    truncations = np.zeros((20, 2), dtype=bool)
    terminations[4], truncations[9] = True, True
    terminations[14, 0], truncations[14, 1] = True, True
    truncations[19] = True
    terminations[17, 0] = True  # one agent is out, the other plays on
    metadata = from_arrays(
        tmp_path / "out",
        observations=data["observation"],
        actions=data["action"],
        rewards=data["reward"],
        terminations=terminations,
        truncations=truncations,
        next_observations=data["next_observation"],
    )
    assert metadata.episode_length == {"mean": 5.0, "min": 5, "max": 5}
    flags = OfflineDataset(tmp_path / "out").data["next", "terminated"].flatten()
    assert flags.nonzero().flatten().tolist() == [4, 14]


@pytest.mark.parametrize("actions", [(20, 2, 2), (20, 2, 3)])
def test_whole_numbers_that_are_no_choices_are_refused(actions, tmp_path):
    data = played(lengths=(20,), n=2, size=3)
    arrays = {"observations": data["observation"], "rewards": data["reward"]}
    arrays |= {"terminations": data["end"], "actions": np.full(actions, 2)}
    with pytest.raises(DatasetError, match=r"one-hot.*found others of shape"):
        from_arrays(tmp_path / "out", **arrays)
    assert not (tmp_path / "out").exists()
    arrays["actions"] = np.eye(actions[-1], dtype=int)[
        np.random.default_rng(0).integers(0, 2, actions[:2])
    ]
    assert from_arrays(tmp_path / "out", **arrays).transitions == 20
