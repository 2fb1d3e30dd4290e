r"""Twin densities of every agent's action: one that is told what the agents before it did, one not.

Their difference on held-out data is the information in those actions, if the twins are equally
good otherwise. So they are as alike as can be. A common base reads the agent's own observation, as
the decentralised teams do whose play is logged. Each twin adds a correction that starts at zero,
with the same architecture and the same initial parameters, trained on the same batches and the
same noise; the inputs of the one twin hold the actions of the agents before it, those of the other
hold zeros. All are mixtures, so densities and noise predictions at all levels come from one fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarl_ssd.modules import StackedLinear, StackedMLP
from benchmarl_ssd.modules.mixture import GaussianMixture

__all__ = ["Samples", "TwinDensities", "fit"]

Draw = Callable[[int], Tensor]
"""From a number of rows to the indices of as many."""


@dataclass
class Samples:
    """What the twins learn from.

    Args:
        own: what each agent but the first sees, standardised, ``[n - 1, T, O]``.
        state: what the team sees, standardised, ``[T, S]``; S may be 0.
        action: joint actions in [-1, 1], ``[T, n, d]``.
    """

    own: Tensor
    state: Tensor
    action: Tensor

    def __getitem__(self, rows: Tensor) -> Samples:
        return Samples(self.own[:, rows], self.state[rows], self.action[rows])

    @property
    def predicted(self) -> Tensor:
        """Actions of all agents but the first, agents first: ``[n - 1, T, d]``."""
        return self.action[:, 1:].transpose(0, 1)


class TwinDensities(nn.Module):
    r"""Densities :math:`p(a_i | s)` and :math:`p(a_i | s, a_{<i})` of all agents but the first.

    Args:
        samples: gives the sizes.
        components: Gaussians of every mixture.
        base_sizes: widths of the networks on the agents' own observations.
        twin_sizes: widths of the networks of the corrections.

    Example:
        >>> samples = Samples(torch.zeros(2, 5, 4), torch.zeros(5, 6), torch.zeros(5, 3, 2))
        >>> mixtures = TwinDensities(samples)(samples)
        >>> [tuple(mixture.mean.shape) for mixture in mixtures]  # base, without, given
        [(2, 5, 8, 2), (2, 5, 8, 2), (2, 5, 8, 2)]
    """

    mask: Tensor

    def __init__(
        self,
        samples: Samples,
        components: int = 8,
        base_sizes: Sequence[int] = (128, 128),
        twin_sizes: Sequence[int] = (64, 64),
    ) -> None:
        super().__init__()
        agents, size = samples.action.shape[1:]
        factors = agents - 1
        self.components = components
        out = GaussianMixture.n_features(components, size)
        self.base = StackedMLP(factors, [samples.own.shape[-1], *base_sizes, out])
        inputs = samples.state.shape[-1] + agents * size
        self.twins = StackedMLP(2 * factors, [inputs, *twin_sizes, out])
        before = torch.ones(agents, agents).tril(-1)[1:].repeat_interleave(size, -1).unsqueeze(1)
        self.register_buffer("mask", torch.cat([before * 0, before]))
        self._initialise(factors, components * size)

    @torch.no_grad()
    def _initialise(self, factors: int, means: int) -> None:
        last = self.base[-1]
        assert isinstance(last, StackedLinear)
        assert last.bias is not None
        last.weight.mul_(0.1)
        last.bias.zero_()
        last.bias[..., :means] = torch.atanh(torch.rand(means) * 1.6 - 0.8)
        last.bias[..., means : 2 * means] = -1.2
        for parameter in self.twins.parameters():
            parameter[factors:] = parameter[:factors]
        for parameter in self.twins[-1].parameters():
            parameter.zero_()

    def forward(self, samples: Samples) -> tuple[GaussianMixture, GaussianMixture, GaussianMixture]:
        """Return the base's mixtures and the twins', without and with the actions before.

        No gradient of the twins reaches the base.
        """
        base = self.base(samples.own)
        state = samples.state.expand(len(self.mask), -1, -1)
        inputs = torch.cat([state, samples.action.flatten(1) * self.mask], -1)
        without, given = (base.detach() + part for part in self.twins(inputs).chunk(2))
        read = GaussianMixture.from_features
        return tuple(read(part, self.components) for part in (base, without, given))  # type: ignore[return-value]


def fit(
    samples: Samples,
    draw: Draw,
    iterations: int,
    noise: float,
    batch_size: int = 512,
    lr: float = 8e-3,
    progress: Callable[[int], None] | None = None,
) -> TwinDensities:
    r"""Fit the twins by maximum likelihood of the actions plus noise.

    The noise, drawn anew for every batch, is what bounds the likelihood where actions do not vary.
    The result is an exponential average of the parameters. Randomness is torch's global one.

    Args:
        samples: the data.
        draw: which of it to train on.
        iterations: gradient steps; the learning rate falls to zero along a cosine.
        noise: its standard deviation, in units of the scaled action, > 0.
        batch_size: transitions per step.
        lr: highest learning rate.
        progress: called after every step with its number.
    """
    twins = TwinDensities(samples)
    average = AveragedModel(twins, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(twins.parameters(), lr, weight_decay=1e-2)
    for iteration in range(iterations):
        rate = 0.5 * (1 + math.cos(math.pi * iteration / iterations)) + 1e-3
        optimizer.param_groups[0]["lr"] = lr * rate * min(1.0, (iteration + 1) / 50)
        batch = samples[draw(batch_size)]
        noisy = batch.predicted + noise * torch.randn(batch.predicted.shape)
        losses = [-mixture.log_density(noisy, noise).mean(1).sum() for mixture in twins(batch)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(twins.parameters(), 5.0 * len(batch.own))
        optimizer.step()
        average.update_parameters(twins)
        if progress is not None:
            progress(iteration + 1)
    assert isinstance(average.module, TwinDensities)
    return average.module.eval()
