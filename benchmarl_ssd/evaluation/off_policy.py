"""Evaluation without a simulator: what a policy would return, how far it strays from the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.statistics import sample_rows
from benchmarl_ssd.evaluation.episodes import normalised
from benchmarl_ssd.evaluation.fqe import FqeOptions, fit_fqe
from benchmarl_ssd.evaluation.transitions import TeamTransitions

Policy = Callable[[TensorDictBase], Any]

_CHUNK = 8192
_DISTANCE_ROWS = 20_000


def estimate(
    dataset: OfflineDataset,
    policy: Policy,
    options: FqeOptions | None = None,
    recurrent: bool = False,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Evaluate a policy on logged data: estimated return with an interval, distance to the data.

    Nothing is played, so the return is an estimate; see :mod:`benchmarl_ssd.evaluation.fqe` for
    what exactly is estimated. Where the policy acts as nobody in the data did
    (``action_distance`` near or above ``action_distance_of_mean``), do not rely on it.

    Args:
        dataset: the logged data.
        policy: reads and writes TensorDicts, as BenchMARL's policies do. A stochastic one is
            taken by one draw per transition.
        options: of the fit.
        recurrent: whether the policy needs whole episodes ``[E, T]`` with ``is_init``.
        device: where the policy and the fit compute.

    Returns:
        dict: ``fqe_return_estimate``, ``fqe_interval`` (two numbers) at ``fqe_confidence``,
        ``fqe_normalised_estimate`` (``None`` without references), ``fqe_members``,
        ``fqe_horizon``, ``fqe_gamma``, ``fqe_steps``, ``initial_states``, and the entries of
        :func:`action_distance`.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> def still(td):
        ...     return td.set(("agents", "action"), torch.zeros(*td.shape, 2, 1))
        >>> dataset = OfflineDataset(write_example(episodes=50))
        >>> result = estimate(dataset, still, FqeOptions(steps=200, num_cells=(32,)))
        >>> low, high = result["fqe_interval"]  # in the example, to stand still costs nothing
        >>> low < result["fqe_return_estimate"] < high
        True
    """
    options = options or FqeOptions()
    data = TeamTransitions(dataset, device)
    first, following = policy_actions(data, policy, recurrent)
    found = fit_fqe(data, following, first, options)
    references = dataset.metadata.references if options.gamma == 1 else None
    return {
        "estimator": "fqe",
        "fqe_return_estimate": found.value,
        "fqe_interval": list(found.interval),
        "fqe_confidence": options.confidence,
        "fqe_normalised_estimate": normalised(found.value, references),
        "fqe_members": list(found.members),
        "fqe_horizon": found.horizon,
        "fqe_gamma": options.gamma,
        "fqe_steps": options.steps,
        "initial_states": found.initial_states,
        **action_distance(data, policy, recurrent),
    }


@torch.no_grad()
def action_distance(
    data: TeamTransitions, policy: Policy, recurrent: bool = False
) -> dict[str, float]:
    """Distance of a policy's actions to the logged ones, on episodes spread over the dataset.

    Args:
        data: the logged transitions.
        policy: as for :func:`estimate`.
        recurrent: as for :func:`estimate`.

    Returns:
        dict: ``action_distance``, the root mean square over transitions, agents and components, of
        actions scaled to [-1, 1] (choices one-hot); and ``action_distance_of_mean``, the same for
        always taking the data's mean action: what knowing nothing of the state achieves.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> dataset = OfflineDataset(write_example())
        >>> logged = dataset.data["agents", "action"]
        >>> copy = lambda td: td.set(("agents", "action"), logged)
        >>> action_distance(TeamTransitions(dataset), copy)["action_distance"]
        0.0
    """
    per_episode = max(1, int(data.lengths.double().mean()))
    chosen = sample_rows(len(data.starts), max(1, _DISTANCE_ROWS // per_episode))
    rows = _rows_of(data, chosen)
    if recurrent:
        acted = _along_episodes(data, policy, chosen)[0]
    else:
        acted = _in_chunks(data, policy, rows, following=False)
    logged = data.actions(rows)
    return {
        "action_distance": (acted - logged).square().mean().sqrt().item(),
        "action_distance_of_mean": (logged - logged.mean(0)).square().mean().sqrt().item(),
    }


@torch.no_grad()
def policy_actions(
    data: TeamTransitions, policy: Policy, recurrent: bool = False
) -> tuple[Tensor, Tensor]:
    """Encoded joint actions of a policy along the logged episodes.

    Args:
        data: the logged transitions.
        policy: as for :func:`estimate`.
        recurrent: as for :func:`estimate`.

    Returns:
        At the start of each episode, ``[E, a]``, and after each transition, ``[T, a]``.
    """
    if not recurrent:
        first = _in_chunks(data, policy, data.starts, following=False)
        return first, _in_chunks(data, policy, torch.arange(len(data.step)), following=True)
    firsts, followings = [], []
    for episodes in torch.arange(len(data.starts)).split(max(1, _CHUNK // data.horizon)):
        at, after = _along_episodes(data, policy, episodes)
        begin = data.lengths[episodes].cumsum(0) - data.lengths[episodes]
        firsts.append(at[begin])
        followings.append(after)
    return torch.cat(firsts), torch.cat(followings)


def _in_chunks(data: TeamTransitions, policy: Policy, rows: Tensor, following: bool) -> Tensor:
    parts = rows.split(_CHUNK)
    return torch.cat([_act(data, policy, data.observations(part, following)) for part in parts])


def _act(data: TeamTransitions, policy: Policy, observed: TensorDictBase) -> Tensor:
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        acted = policy(observed)
    return data.encode(observed if acted is None else acted)


def _rows_of(data: TeamTransitions, episodes: Tensor) -> Tensor:
    steps = torch.arange(data.horizon)
    rows = data.starts[episodes].unsqueeze(1) + steps
    return rows[steps < data.lengths[episodes].unsqueeze(1)]


def _along_episodes(
    data: TeamTransitions, policy: Policy, episodes: Tensor
) -> tuple[Tensor, Tensor]:
    """Actions at and after each transition of whole episodes, with memory, ``[t, a]`` each."""
    lengths = data.lengths[episodes].unsqueeze(1)
    longest = int(lengths.max())
    steps = torch.arange(longest + 1)
    rows = data.starts[episodes].unsqueeze(1) + steps.minimum(lengths - 1)
    # Every row's own observation, but after the last one what it led to; padding repeats that.
    before = data.observations(rows.flatten())
    after = data.observations(rows.flatten(), following=True)
    ended = (steps >= lengths).flatten().to(before.device)
    observed = TensorDict({}, batch_size=[ended.numel()], device=before.device)
    for key in before.keys(True, True):
        mine, nexts = before.get(key), after.get(key)
        mask = ended.view(-1, *[1] * (mine.ndim - 1))
        observed.set(key, torch.where(mask, nexts, mine))
    observed = observed.reshape(len(episodes), longest + 1)
    is_init = torch.zeros(*observed.shape, 1, dtype=torch.bool, device=observed.device)
    is_init[:, 0] = True
    acted = _act(data, policy, observed.set("is_init", is_init))
    inside = (steps[:-1] < lengths).to(acted.device)
    return acted[:, :-1][inside], acted[:, 1:][inside]
