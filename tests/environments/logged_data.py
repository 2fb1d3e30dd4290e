"""A dataset of a factory that no environment exists of, for the tests."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDict

from benchmarl_ssd.data import DatasetWriter


def write_factory(
    path: Path, state: bool = True, discrete: bool = False, episodes: int = 40, seed: int = 0
) -> Path:
    """Two groups, unequal bounds, two observations, lengths 4 to 6, both ways to end.

    Rewards are low where arms and belts act far from a fraction of what they see.
    """
    random = torch.Generator().manual_seed(seed)
    groups = {"arms": ["a", "b"], "belts": ["c"]}
    bounds = {
        "arms": {"low": [[-1.0, -2.0], [-1.0, -2.0]], "high": [[1.0, 2.0], [1.0, 0.5]]},
        "belts": {"low": [[-1.0]], "high": [[1.0]]},
    }
    if discrete:
        bounds = {
            "arms": {"low": [0, 0], "high": [3, 3]},
            "belts": {"low": [0], "high": [3]},
        }
    with DatasetWriter(
        path,
        groups=groups,
        action_bounds=bounds,
        task={"environment": "factory", "name": "robots", "config": {"floors": 2}},
        references={"random": -10.0, "expert": 0.0},
    ) as writer:
        for index in range(episodes):
            length = 6 if index % 4 else 4 + index % 3 % 2
            writer.extend(
                _episode(length, bool(index % 4), groups, bounds, state, discrete, random)
            )
    return path


def _episode(length, truncated, groups, bounds, state, discrete, random) -> TensorDict:
    td = TensorDict({}, batch_size=[length])
    for group, agents in groups.items():
        n = len(agents)
        seen = torch.randn(length + 1, n, 3, generator=random)
        td[group, "observation"], td["next", group, "observation"] = seen[:-1], seen[1:]
        if group == "arms":
            camera = torch.randn(length + 1, n, 2, 2, generator=random).flatten(2)
            td[group, "camera"], td["next", group, "camera"] = camera[:-1], camera[1:]
        if discrete:
            mask = torch.ones(length + 1, n, 4, dtype=torch.bool)
            td[group, "action_mask"], td["next", group, "action_mask"] = mask[:-1], mask[1:]
            action = torch.randint(4, (length, n), generator=random)
            reward = -action.float().unsqueeze(-1)
        else:
            low, high = (torch.tensor(bounds[group][side]) for side in ("low", "high"))
            share = torch.rand(length, *low.shape, generator=random)
            action = low + share * (high - low)
            reward = -(action - 0.2 * seen[:-1, :, : low.shape[1]]).square().mean(-1, True)
        td[group, "action"], td["next", group, "reward"] = action, reward
    if state:
        whole = torch.randn(length + 1, 5, generator=random)
        td["state"], td["next", "state"] = whole[:-1], whole[1:]
    end = torch.zeros(length, 1, dtype=torch.bool)
    end[-1] = True
    none = torch.zeros_like(end)
    td["next", "truncated"] = end if truncated else none
    td["next", "terminated"] = none if truncated else end
    return td
