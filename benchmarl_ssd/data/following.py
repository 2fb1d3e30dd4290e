"""What was done next, for algorithms that bootstrap from actions that were really taken."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from benchmarl_ssd.data.errors import DatasetError


def logged_next_action(
    rows: TensorDictBase, group: str, index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Look up the action in the row after each of some rows, within the same episode.

    Args:
        rows: all transitions in time order, ``[T]``, with ``episode``.
        group: the group whose actions are asked for.
        index: rows, ``[M]``.

    Returns:
        Actions ``[M, n, d]``, zero where there is no next one, and whether there is, ``[M, 1]``. An
        episode's last row has none: what follows it is another episode's.

    Example:
        >>> from benchmarl_ssd.data.examples import example_episodes
        >>> rows = example_episodes(length=5).set("episode", torch.arange(20) // 5)
        >>> action, acted = logged_next_action(rows, "agents", torch.tensor([3, 4]))
        >>> acted.squeeze(-1).tolist(), torch.equal(action[0], rows["agents", "action"][4])
        ([True, False], True)
    """
    episode, action = rows.get("episode").reshape(-1), rows.get((group, "action"))
    index = index.to(episode.device)
    following = (index + 1).clamp_max(len(episode) - 1)
    acted = (following > index) & (episode[following] == episode[index])
    return action[following] * acted.reshape(-1, *[1] * (action.ndim - 1)), acted.unsqueeze(-1)


def add_next_action(batch: TensorDictBase, group: str) -> None:
    """Add ``("next", group, "action")`` and ``("next", "acted")`` to steps as they were collected.

    Neither an episode's last step has a next action, nor the last one that was collected.

    Args:
        batch: steps ``[environments, T]`` in time order; changed in place.
        group: the group whose actions are meant.

    Raises:
        DatasetError: if T is less than 2.

    Example:
        >>> from benchmarl_ssd.data.examples import example_episodes
        >>> batch = example_episodes(episodes=2, length=5).reshape(2, 5)
        >>> add_next_action(batch, "agents")
        >>> batch["next", "acted"].squeeze(-1)[0].tolist()
        [True, True, True, True, False]
    """
    if batch.ndim < 2 or batch.shape[1] < 2:
        raise DatasetError(
            "expected at least 2 steps of every environment at a time, found (environments, steps) "
            f"{tuple(batch.shape)}; raise experiment.off_policy_collected_frames_per_batch, or "
            "train on an algorithm.dataset"
        )
    acted = ~batch.get(("next", "done"))
    acted[:, -1] = False
    action = batch.get((group, "action")).roll(-1, dims=1)
    entries = acted.reshape(*acted.shape, *[1] * (action.ndim - acted.ndim))
    batch.set(("next", group, "action"), action * entries)
    batch.set(("next", "acted"), acted)
