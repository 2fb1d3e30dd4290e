"""A tiny dataset, for documentation and for trying things out."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tensordict import TensorDict

from benchmarl_ssd.data.writer import DatasetWriter


def example_episodes(
    episodes: int = 4, length: int = 5, agents: int = 2, seed: int = 0
) -> TensorDict:
    """Make up episodes of a team whose agents see three numbers and act with one.

    Args:
        episodes: number of episodes; every other one is terminated, the rest truncated.
        length: steps per episode.
        agents: number of agents n in the only group, ``agents``.
        seed: seed of the random values.

    Returns:
        TensorDict ``[episodes * length]`` as :meth:`DatasetWriter.extend` takes it.

    Example:
        >>> example_episodes()["agents", "observation"].shape
        torch.Size([20, 2, 3])
    """
    random = torch.Generator().manual_seed(seed)
    observation = torch.randn(episodes, length + 1, agents, 3, generator=random)
    action = torch.rand(episodes, length, agents, 1, generator=random) * 2 - 1
    terminated = torch.zeros(episodes, length, 1, dtype=torch.bool)
    truncated = terminated.clone()
    terminated[::2, -1] = True
    truncated[1::2, -1] = True
    return TensorDict(
        {
            "agents": {"observation": observation[:, :-1], "action": action},
            "next": {
                "agents": {"observation": observation[:, 1:], "reward": -action.abs()},
                "done": terminated | truncated,
                "terminated": terminated,
                "truncated": truncated,
            },
        },
        batch_size=[episodes, length],
    ).flatten()


def write_example(path: str | Path | None = None, **kwargs: int) -> Path:
    """Write the episodes of :func:`example_episodes` as a dataset.

    Args:
        path: the folder to write, or None for one in the system's temporary folder.
        **kwargs: passed on to :func:`example_episodes`.

    Returns:
        The dataset's folder.

    Example:
        >>> write_example().name
        'example'
    """
    folder = Path(path) if path else Path(tempfile.mkdtemp()) / "example"
    data = example_episodes(**kwargs)
    n = data["agents", "action"].shape[1]
    with DatasetWriter(
        folder,
        groups={"agents": [f"agent_{i}" for i in range(n)]},
        action_bounds={"agents": {"low": -torch.ones(n, 1), "high": torch.ones(n, 1)}},
        source={"kind": "example", "seed": kwargs.get("seed", 0)},
    ) as writer:
        writer.extend(data)
    return folder
