r"""How much coordination is in a dataset: the total correlation of its actions, given the state.

.. math::
    T(s) = \mathrm{KL}\Bigl(\mu(a | s) \,\Big\|\, \prod_i \mu_i(a_i | s)\Bigr)
         = \sum_{i > 1} I(a_i;\, a_{<i} \mid s)

It is 0 where agents act independently, and (n - 1) log K where they play one of K equally likely
joint modes in which every agent has K distinct actions. It bounds what a method loses that models
every agent by itself: the total variation between the team's joint actions and those of its
marginals is at most :math:`\sqrt{1 - e^{-T}}` (Bretagnolle and Huber) and :math:`\sqrt{T / 2}`
(Pinsker).

The estimate is the gap between the held-out log densities of two fits that differ in nothing but
the actions they are told (:mod:`benchmarl_ssd.evaluation.twins`), for actions with a little noise
added, the resolution. By the I-MMSE relation it equals the integrated gap between their denoising
errors (:mod:`benchmarl_ssd.evaluation.information`), which is reported beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarl_ssd.data import DatasetError, OfflineDataset
from benchmarl_ssd.data.checks import observation_names
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.evaluation.coordination_report import Coordination, Estimate, Phase
from benchmarl_ssd.evaluation.information import NoiseLevels, conditional_information
from benchmarl_ssd.evaluation.twins import Samples, TwinDensities, fit
from benchmarl_ssd.modules import ActionScaler, VPNoiseSchedule
from benchmarl_ssd.modules.mixture import GaussianMixture

__all__ = ["coordination"]

RESOLUTION = 0.1
_MOST_TRANSITIONS = 1_000_000
_HELD_OUT = 0.2
_EVALUATED = 10_000
_FEWEST_EPISODES = 20


def coordination(
    dataset: OfflineDataset | str | os.PathLike[str],
    group: str | None = None,
    resolution: float = RESOLUTION,
    iterations: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Coordination]:
    """Estimate how much coordination is in a dataset, for each of its groups of agents.

    A fifth of the episodes is held out; intervals tell how far the estimate hangs on which ones,
    not how well the networks fit. Of more than a million transitions, that many are used.

    Args:
        dataset: a dataset or its folder.
        group: only this group; None takes all that have two agents or more.
        resolution: noise added to the actions, whose bounds are -1 and 1, in (0.006, 20).
            Differences below it are not seen, and couplings that are exact stay finite.
        iterations: gradient steps; None takes 1000 where nothing varies but actions, else 6000.
        seed: of the split, the networks and the noise.
        progress: called with the number of steps done and of all.

    Returns:
        One result per group.

    Raises:
        DatasetError: if no group has two agents, actions are not continuous, or there are fewer
            than 20 episodes.
        ValueError: if the resolution is out of its range.

    Example:
        >>> from benchmarl_ssd.data import build
        >>> import tempfile
        >>> folder = build(
        ...     "coordination/bandit/modes", tempfile.mkdtemp(), transitions=2000, progress=False)
        >>> [found] = coordination(folder, iterations=200)
        >>> found.verdict  # two modes of two agents: log 2
        'coordinated'
    """
    if not isinstance(dataset, OfflineDataset):
        dataset = OfflineDataset(dataset)
    metadata = dataset.metadata
    sizes = {name: len(agents) for name, agents in metadata.groups.items()}
    groups = [name for name in sizes if sizes[name] > 1] if group is None else [group]
    if not groups or any(sizes.get(name, 0) < 2 for name in groups):
        raise DatasetError(
            "expected a group of two agents or more, found "
            f"{', '.join(f'{name} of {count}' for name, count in sizes.items())}"
            + (f"; asked for {group}" if group is not None else "")
        )
    if metadata.episodes < _FEWEST_EPISODES:
        raise DatasetError(
            f"expected at least {_FEWEST_EPISODES} episodes to tell chance from coordination, "
            f"found {metadata.episodes}; record more"
        )
    NoiseLevels(resolution)  # complains now rather than after minutes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [_coordination(dataset, name, resolution, iterations, progress) for name in groups]


def _coordination(
    dataset: OfflineDataset,
    group: str,
    resolution: float,
    iterations: int | None,
    progress: Callable[[int, int], None] | None,
) -> Coordination:
    rows, episode, step = _transitions(dataset.data["episode"])
    samples = _samples(dataset, group, rows)
    phase = (step + 1).float().log2().floor().long()  # steps 1, 2-3, 4-7, ...
    held_out = (torch.randperm(int(episode[-1]) + 1) < _HELD_OUT * (episode[-1] + 1))[episode]
    both = [
        [((phase == index) & part).nonzero().flatten() for index in phase.unique().tolist()]
        for part in (~held_out, held_out)
    ]
    # the last phase of some long episodes may be in one part only
    train, held = zip(*[parts for parts in zip(*both, strict=True) if min(map(len, parts))],
                      strict=True)  # fmt: skip
    every = torch.cat(train)

    def draw(count: int) -> Tensor:
        # half of a batch evenly over phases: most of a convention is decided in the first steps
        counts = [count - count // 2] + [count // 2 // len(train)] * len(train)
        parts = zip([every, *train], counts, strict=True)
        return torch.cat([part[torch.randint(len(part), (size,))] for part, size in parts])

    if iterations is None:
        iterations = 6000 if samples.state.shape[-1] else 1000
    steps = iterations
    report = None if progress is None else lambda done: progress(done, steps)
    twins = fit(samples, draw, steps, resolution, progress=report)
    held = tuple(part[torch.randperm(len(part))[: _EVALUATED // len(held)]] for part in held)
    gaps = [_gaps(twins, samples[part], resolution) for part in held]
    shares = torch.tensor([float((phase == phase[part[0]]).sum()) for part in held])
    shares /= shares.sum()
    episodes = [episode[part] for part in held]
    total, phases = _estimates([gap.sum(0) for gap, _ in gaps], episodes, shares)
    denoising, _ = _estimates([gap for _, gap in gaps], episodes, shares)
    by_agent = sum(share * gap.mean(1) for share, (gap, _) in zip(shares, gaps, strict=True))
    return Coordination(
        group=group,
        agents=samples.action.shape[1],
        information=total,
        denoising=denoising,
        by_agent=[0.0, *torch.as_tensor(by_agent).tolist()],
        phases=[
            Phase(
                first=2 ** int(phase[part[0]]),
                last=min(2 ** (int(phase[part[0]]) + 1) - 1, int(step.max()) + 1),
                share=share,
                information=estimate,
            )
            for part, share, estimate in zip(held, shares.tolist(), phases, strict=True)
        ],
        resolution=resolution,
        held_out_episodes=int(episode[held_out].unique().numel()),
    )


def _transitions(episode: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of at most a million transitions in whole episodes, their episodes and steps."""
    _, episode, lengths = episode.unique_consecutive(return_inverse=True, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    step = torch.arange(len(episode)) - starts[episode]
    order = torch.randperm(len(lengths))
    kept = order[lengths[order].cumsum(0) <= max(_MOST_TRANSITIONS, int(lengths.max()))]
    rows = torch.isin(episode, kept).nonzero().flatten()
    return rows, episode[rows].unique_consecutive(return_inverse=True)[1], step[rows]


def _samples(dataset: OfflineDataset, group: str, rows: Tensor) -> Samples:
    metadata, data = dataset.metadata, dataset.data
    action = data[group, "action"]
    if not action.is_floating_point():
        raise DatasetError(
            f"expected continuous actions, found {action.dtype} in group {group!r}; "
            "coordination of discrete actions is not estimated"
        )
    scaled = ActionScaler(*metadata.bounds(group)).scale(action[rows].float())
    seen = [data[name_key(name)][rows] for name in observation_names(metadata.tensors, group)]
    own = torch.cat([values.float().flatten(2) for values in seen], -1)
    team = [own.flatten(1)]
    if "state" in metadata.tensors:
        team.append(data["state"][rows].float().flatten(1))
    whitened = [_whitened(own[:, agent]) for agent in range(1, own.shape[1])]
    width = max(1, *(values.shape[1] for values in whitened))
    padded = [torch.nn.functional.pad(v, (0, width - v.shape[1])) for v in whitened]
    return Samples(torch.stack(padded), _whitened(torch.cat(team, 1)), scaled)


def _whitened(values: Tensor, smallest: float = 1e-4) -> Tensor:
    """Principal components with variance one, ``[T, k]``, of those that are not redundant.

    Observations repeat each other, the more so those of a team: a network learns from them many
    times faster without the repetitions.
    """
    values = values - values.mean(0)
    deviation = values.std(0)
    values = values[:, deviation > 1e-6] / deviation[deviation > 1e-6]
    if not values.shape[1]:
        return values
    variance, axes = torch.linalg.eigh(values.T @ values / len(values))
    kept = variance > smallest * variance.max().clamp_max(1.0)
    return values @ (axes[:, kept] / variance[kept].sqrt())


@torch.no_grad()
def _gaps(twins: TwinDensities, samples: Samples, resolution: float) -> tuple[Tensor, Tensor]:
    """Gaps of log densities ``[n - 1, M]`` and of denoising errors, summed over agents, ``[M]``."""
    _, without, given = twins(samples)
    action, schedule = samples.predicted, VPNoiseSchedule()
    noisy = action + resolution * torch.randn(action.shape)
    gap = given.log_density(noisy, resolution) - without.log_density(noisy, resolution)

    def pair(noised: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        def predict(mixture: GaussianMixture) -> Tensor:
            # [F, M, ...] and draws between them
            return mixture.unsqueeze(1).predicted_noise(
                noised, schedule.alpha(t), schedule.sigma(t)
            )

        return predict(without), predict(given)

    levels = NoiseLevels(resolution)
    # where the two predictions differ, the estimate's variance comes from
    _, level, squared = conditional_information(pair, action, levels, schedule, draws=4)
    levels = levels.adapted(level, squared)
    denoising, _, _ = conditional_information(pair, action, levels, schedule, draws=16)
    return gap, denoising.sum(0)


def _estimates(
    values: list[Tensor], episodes: list[Tensor], shares: Tensor, replicates: int = 1000
) -> tuple[Estimate, list[Estimate]]:
    """Mean over all phases and within each, with intervals from the bootstrap over episodes."""
    count = 1 + max(int(episode.max()) for episode in episodes)
    # the Bayesian bootstrap (Rubin, 1981): exponential weights instead of resampled episodes
    weights = torch.empty(replicates, count).exponential_()
    means = torch.stack(
        [
            (weights[:, episode] * value).sum(1) / weights[:, episode].sum(1)
            for value, episode in zip(values, episodes, strict=True)
        ]
    )
    tail = torch.tensor([0.025, 0.975])

    def estimate(mean: Tensor, sample: Tensor) -> Estimate:
        low, high = sample.quantile(tail).tolist()
        return Estimate(float(mean), low, high)

    each = torch.stack([value.mean() for value in values])
    return estimate(shares @ each, shares @ means), [
        estimate(mean, sample) for mean, sample in zip(each, means, strict=True)
    ]
