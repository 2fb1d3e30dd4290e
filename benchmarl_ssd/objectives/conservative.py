"""The conservative term of action-value critics: low where nothing was logged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarl_ssd.objectives.policy_evaluation import PolicyEvaluationLoss

Proposal = Literal["uniform", "policy", "next_policy"]

# Rows that go through the critics at once; more are recomputed in the backward pass.
_MAX_ROWS = 32_768


def sample_around(centre: Tensor, scale: float, count: int) -> tuple[Tensor, Tensor]:
    r"""Sample a Gaussian of the given centre, cut off at the bounds [-1, 1].

    Args:
        centre (Tensor): in [-1, 1], ``[..., d]``.
        scale (float): standard deviation of the Gaussian before it is cut off, above 0.
        count (int): samples for every centre.

    Returns:
        The samples ``[count, ..., d]`` and their log-densities, relative to the uniform
        distribution's and summed over entries, ``[count, ...]``.

    Examples:
        >>> sample, log_density = sample_around(torch.zeros(5, 2), 0.2, count=3)
        >>> sample.shape, log_density.shape
        (torch.Size([3, 5, 2]), torch.Size([3, 5]))
    """
    low, high = (torch.special.ndtr((bound - centre) / scale) for bound in (-1.0, 1.0))
    share = torch.rand(count, *centre.shape, device=centre.device, dtype=centre.dtype)
    # A share of exactly 0 would be taken for a sample at the bound, however far that is.
    share = share.clamp_min(torch.finfo(share.dtype).eps / 2)
    sample = centre + scale * torch.special.ndtri(low + share * (high - low))
    sample = sample.clamp(-1, 1)  # what rounding leaves beyond the bounds, infinities too
    normal = math.log(2 / (scale * math.sqrt(2 * math.pi)))
    log_density = normal - 0.5 * ((sample - centre) / scale) ** 2 - (high - low).log()
    return sample, log_density.sum(-1)


class ConservativeMixin(PolicyEvaluationLoss):
    r"""Critics of the policies that are held down where nothing was logged.

    To the loss of every critic (see :class:`PolicyEvaluationLoss`) it adds :math:`\alpha` times
    the penalty of conservative Q-learning (Kumar et al., arXiv 2006.04779, Eq. 4),

    .. math::
        T \log \int e^{Q_k(s, u) / T}\, \frac{du}{2^D} - Q_k(s, a)
        \approx T \log \frac1M \sum_m e^{Q_k(s, u_m) / T} \frac{U(u_m)}{p(u_m)} - Q_k(s, a),

    over actions :math:`u \in [-1, 1]^D`. :math:`M` actions come in equal parts from the uniform
    distribution :math:`U`, from around the current policies' actions, and from around what these
    do in the next state; :math:`U/p` corrects for where they come from. A joint critic is
    asked about joint actions of all agents, independent ones each about its own.

    :math:`\alpha` and :math:`T` are in units of the task's own reward whatever ``reward_scale`` is,
    so that published values keep their meaning.

    Three things differ from the original. The logarithm is of a mean where the original has a sum:
    a constant, without which the penalty would depend on the number of samples. The
    importance weight is outside of the temperature (the same at :math:`T = 1`), so that
    more samples come closer to the integral at every temperature. And the penalty may be
    taken on a random share of the batch's rows, all its actions included, which is most of what
    it costs and leaves the expected gradient as it is.

    Meant to be inherited from: a subclass calls ``_set_up_penalty`` in its constructor, and
    trains its critics with :meth:`conservative_qvalue_loss`.
    """

    def _set_up_penalty(
        self,
        alpha: float = 1.0,
        penalty_temperature: float = 1.0,
        num_sampled_actions: int = 3,
        proposals: Sequence[str] = ("uniform", "policy", "next_policy"),
        sample_noise: float = 0.2,
        penalty_share: float = 1.0,
    ) -> None:
        known = get_args(Proposal)
        if not proposals or len(set(proposals)) < len(proposals) or set(proposals) - set(known):
            raise ValueError(
                f"expected proposals to be some of {', '.join(known)}, each once; found "
                f"{list(proposals)}"
            )
        for name, found in (
            ("penalty_temperature", penalty_temperature),
            ("sample_noise", sample_noise),
        ):
            if found <= 0:
                raise ValueError(f"expected {name} above 0, found {found}")
        if alpha < 0:
            raise ValueError(f"expected alpha of at least 0, found {alpha}")
        if num_sampled_actions < 1:
            raise ValueError(
                f"expected num_sampled_actions of at least 1, found {num_sampled_actions}"
            )
        if not 0 < penalty_share <= 1:
            raise ValueError(f"expected penalty_share in (0, 1], found {penalty_share}")
        self.alpha, self.penalty_temperature = alpha, penalty_temperature
        self.num_sampled_actions, self.proposals = num_sampled_actions, tuple(proposals)
        self.sample_noise, self.penalty_share = sample_noise, penalty_share

    @torch.no_grad()
    def propose(self, tensordict: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Sample the actions that are held down.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.

        Returns:
            Actions of all agents in [-1, 1], ``[M, *B, n, d]``, and every agent's log-density
            relative to the uniform distribution, ``[M, *B, n]``.
        """
        count, parts = self.num_sampled_actions, []
        logged = self.logged_action(tensordict)
        for proposal in self.proposals:
            if proposal == "uniform":
                sample = 2 * torch.rand(count, *logged.shape, device=logged.device) - 1
                parts.append((sample, torch.zeros_like(sample[..., 0])))
                continue
            following = proposal == "next_policy"
            observed = self.following(tensordict) if following else tensordict
            centre = self.policy_action(observed).clamp(-1, 1)
            parts.append(sample_around(centre, self.sample_noise, count))
        samples, densities = zip(*parts, strict=True)
        return torch.cat(samples), torch.cat(densities)

    def evaluate(self, tensordict: TensorDictBase, sampled: Tensor) -> Tensor:
        """Values of sampled actions ``[S, *B, n, d]``: ``[N, S, *B]``, or one more for agents."""
        return self.qvalues_of(tensordict, sampled, self.qvalue_network_params)

    def sampled_qvalues(self, tensordict: TensorDictBase, sampled: Tensor) -> Tensor:
        """Evaluate all samples at once, or many in pieces, so that memory does not grow with them.

        The activations of pieces are computed again in the backward pass.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            sampled (Tensor): joint actions in [-1, 1], ``[S, *B, n, d]``.

        Returns:
            Values ``[N, S, *B]``, or ``[N, S, *B, n]`` where they are each agent's own.
        """
        at_once = max(1, _MAX_ROWS // max(1, sampled[0, ..., 0].numel()))
        if len(sampled) <= at_once:
            return self.evaluate(tensordict, sampled)
        pieces = [
            checkpoint(self.evaluate, tensordict, piece, use_reentrant=False)
            for piece in sampled.split(at_once)
        ]
        return torch.cat(pieces, 1)

    def soft_maximum(self, qvalue: Tensor, log_density: Tensor) -> Tensor:
        r"""Estimate :math:`T \log E_U\, e^{Q / T}` from samples along dimension 1.

        Args:
            qvalue (Tensor): values ``[N, M, ...]``.
            log_density (Tensor): of where the samples come from, relative to the uniform
                distribution, ``[M, ...]``.

        Returns:
            The estimate, ``[N, ...]``.
        """
        temperature = self.penalty_temperature * self.reward_scale
        exponent = qvalue / temperature - log_density
        return temperature * (exponent.logsumexp(1) - math.log(qvalue.shape[1]))

    def held_down(self, tensordict: TensorDictBase) -> Tensor:
        """Soft maximum of each critic over sampled actions, ``[N, *B]``, or each agent's too."""
        sampled, log_density = self.propose(tensordict)
        qvalue = self.sampled_qvalues(tensordict, sampled)
        joint = qvalue.ndim < log_density.ndim + 1
        return self.soft_maximum(qvalue, log_density.sum(-1) if joint else log_density)

    def penalty(self, tensordict: TensorDictBase, predicted: Tensor) -> Tensor:
        """How far the sampled actions' values are above the logged actions', ``[*B]``.

        Summed over critics, meant over agents. Rows that are left out (see ``penalty_share``) have
        a penalty of 0, and the others one that is larger by as much.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            predicted (Tensor): the critics' values of the logged actions, with gradient,
                ``[N, *B]`` or ``[N, *B, n]``.
        """
        size = tensordict.batch_size[0] if tensordict.ndim else 1
        kept = max(1, round(self.penalty_share * size))
        if kept == size:
            gap = self.held_down(tensordict) - predicted
            return self.per_sample(gap.sum(0), tensordict)
        rows = torch.randperm(size, device=predicted.device)[:kept]
        part = tensordict[rows]
        gap = self.held_down(part) - predicted[:, rows]
        found = self.per_sample(gap.sum(0), part) * (size / kept)
        return found.new_zeros(tensordict.batch_size).index_copy(0, rows, found)

    def conservative_qvalue_loss(
        self, tensordict: TensorDictBase
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Per-sample loss ``[*B]`` of the critics, summed over them, and metrics."""
        predicted = self.qvalues(tensordict, self.qvalue_network_params)
        next_value = self.next_policy_value(tensordict)
        loss, metrics = self.regress(tensordict, next_value, predicted)
        if self.alpha == 0:
            return loss, metrics
        penalty = self.penalty(tensordict, predicted)
        # In units of the task's reward: with values c Q the whole loss is c^2 of what it is with Q.
        weight = self.alpha * self.reward_scale
        return loss + weight * penalty, {**metrics, "penalty": penalty.mean()}
