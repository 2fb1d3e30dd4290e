"""Where episodes end and what steps lead to, against a plain loop over the rows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarl_ssd.data import DatasetError
from benchmarl_ssd.data.importers import episodes as module
from benchmarl_ssd.data.importers.episodes import EpisodeCutter


def plainly(rows, limit, known_next, last_step):
    """The episodes' steps as (observation, next observation, terminated, truncated)."""
    steps, episode = [], []
    count = len(rows["observation"])
    for t in range(count):
        terminated, truncated = bool(rows["terminated"][t]), bool(rows["truncated"][t])
        other = t + 1 < count and rows["episode"][t + 1] != rows["episode"][t]
        episode.append(t)
        at_limit = limit is not None and len(episode) == limit
        if not (terminated or truncated or other or at_limit or t == count - 1):
            continue
        terminated &= not at_limit
        last = len(episode) - 1
        for i, row in enumerate(episode):
            ended = i == last
            following = row if ended and not known_next else row + 1
            flags = (ended and terminated, ended and (truncated or not terminated))
            steps.append([row, following, *flags])
        if not terminated and not known_next and last_step == "drop":
            steps.pop()
            if last:
                steps[-1][3] = True
        episode = []
    return steps


flags = st.lists(st.sampled_from("......TUXI"), min_size=1, max_size=60)


@settings(max_examples=300, deadline=None)
@given(
    flags,
    st.sampled_from([None, 1, 2, 3, 7]),
    st.booleans(),
    st.sampled_from(["drop", "repeat"]),
    st.lists(st.integers(1, 20), max_size=10),
)
def test_as_a_plain_loop_has_it(flags, limit, known_next, last_step, cuts):
    count = len(flags)
    observation = np.arange(count)
    rows = {
        "observation": observation,
        "terminated": np.array([flag in "TX" for flag in flags]),
        "truncated": np.array([flag in "UX" for flag in flags]),
        "episode": np.cumsum([flag == "I" for flag in flags]),
    }
    if known_next:
        rows["next_observation"] = observation + 1
    cutter = EpisodeCutter([] if known_next else ["observation"], limit, last_step)
    edges = [0, *(c for c in np.cumsum(cuts).tolist() if c < count), count]
    found = []
    for start, stop in itertools.pairwise(edges):
        piece = {name: values[start:stop].copy() for name, values in rows.items()}
        given = cutter.add(piece, last=stop == count)
        if given is not None:
            names = ("observation", "next_observation", "terminated", "truncated")
            found += [list(step) for step in zip(*(given[n].tolist() for n in names), strict=True)]
    assert found == plainly(rows, limit, known_next, last_step)
    assert len(found) + cutter.dropped == count


def test_an_episode_without_end_is_refused_before_memory_is_full(monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 100)
    cutter = EpisodeCutter([])
    rows = {"observation": np.zeros(60), "next_observation": np.zeros(60)}
    assert cutter.add(rows) is None
    with pytest.raises(DatasetError, match=r"found none in 120 steps; give .*--episode-length"):
        cutter.add(rows)


def test_last_step_is_one_of_two():
    with pytest.raises(DatasetError, match="drop, repeat, found 'keep'"):
        EpisodeCutter([], last_step="keep")
