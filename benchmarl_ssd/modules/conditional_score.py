"""The decomposition of a joint behaviour policy into conditional scores, as a TensorDict module."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.mixture_score import MixtureScoreNetwork
from benchmarl_ssd.modules.noise import VPNoiseSchedule
from benchmarl_ssd.modules.score import NoisePredictor, PreconditionedScoreNetwork, ScoreContext

Decomposition = Literal["sequential", "marginal", "joint"]
AgentOrder = Literal["fixed", "reversed", "random"]
Condition = Literal["state", "observation"]
Estimator = Literal["diffusion", "mixture"]


def check_option(name: str, value: str, options: object) -> None:
    """Raise a ``ValueError`` unless ``value`` is one of the literals ``options``."""
    allowed = get_args(options)
    if value not in allowed:
        raise ValueError(f"expected {name} to be one of {', '.join(allowed)}; found {value!r}")


class ConditionalScore(TensorDictModuleBase):
    r"""Noise predictions :math:`\epsilon_i(a_i^t, t | s, a_{<i})` of all agents of a group.

    By the chain rule :math:`\mu(a|s) = \prod_i \mu_i(a_i | s, a_{<i})` for every order of the
    agents. What a factor is conditioned on is the decomposition (Qiao et al., arXiv 2505.05968):

    ============== ==================================== =========================================
    decomposition  factor                               what is lost
    ============== ==================================== =========================================
    ``sequential`` :math:`\mu_i(a_i | s, a_{<i})`       nothing
    ``marginal``   :math:`\mu_i(a_i | s)`               how agents' choices belong together
    ``joint``      :math:`\mu(a | s)`, one for the team nothing; its size grows with the team
    ============== ==================================== =========================================

    Args:
        network (NoisePredictor): the denoisers of all factors.
        n_agents (int): number of agents in the group.
        action_dim (int): size of one agent's action.
        condition_keys (sequence of NestedKey): entries that make up the condition.
        decomposition (str): ``sequential``, ``marginal`` or ``joint``.
        order (str): which agents come before which: ``fixed`` (0, 1, ..), ``reversed``, or
            ``random`` (a fresh permutation each time).
        condition (str): ``state`` gives every factor all entries of all agents, ``observation``
            gives factor i agent i's entries only.
        action_key (NestedKey): the clean joint action, ``[*B, n, d]``, in [-1, 1].
        noised_action_key (NestedKey): the noised action, ``[*B, n, d]``.
        time_key (NestedKey): the noise times, ``[*B, n, 1]`` (``[*B, 1, 1]`` for ``joint``).
        noise_key (NestedKey): where the prediction is written, ``[*B, n, d]``.

    Raises:
        ValueError: if an option is unknown, or ``joint`` is asked to use observations only.
    """

    def __init__(
        self,
        network: NoisePredictor,
        n_agents: int,
        action_dim: int,
        condition_keys: Sequence[NestedKey],
        decomposition: Decomposition = "sequential",
        order: AgentOrder = "fixed",
        condition: Condition = "state",
        action_key: NestedKey = ("agents", "action"),
        noised_action_key: NestedKey = ("agents", "noised_action"),
        time_key: NestedKey = "noise_time",
        noise_key: NestedKey = ("agents", "noise"),
    ) -> None:
        super().__init__()
        check_option("decomposition", decomposition, Decomposition)
        check_option("order", order, AgentOrder)
        check_option("condition", condition, Condition)
        if decomposition == "joint" and condition == "observation":
            raise ValueError(
                "expected condition 'state' with decomposition 'joint' (one score for the team), "
                "found 'observation'; set condition to 'state'"
            )
        self.network = network
        self.n_agents, self.action_dim = n_agents, action_dim
        self.n_factors = 1 if decomposition == "joint" else n_agents
        self.decomposition, self.order, self.condition_on = decomposition, order, condition
        self.condition_keys = list(condition_keys)
        self.action_key, self.noised_action_key = action_key, noised_action_key
        self.time_key, self.noise_key = time_key, noise_key
        self.in_keys = [*self.condition_keys, action_key, noised_action_key, time_key]
        self.out_keys = [noise_key]

    @classmethod
    def build(
        cls,
        n_agents: int,
        action_dim: int,
        condition_dim: int,
        condition_keys: Sequence[NestedKey],
        hidden_sizes: Sequence[int] = (64, 64),
        regression_sizes: Sequence[int] = (128, 128),
        estimator: Estimator = "diffusion",
        schedule: VPNoiseSchedule | None = None,
        device: torch.device | str | None = None,
        **kwargs,
    ) -> ConditionalScore:
        """Make the module together with networks that fit it.

        Args:
            n_agents (int): number of agents.
            action_dim (int): size of one agent's action.
            condition_dim (int): features of one factor's condition.
            condition_keys (sequence of NestedKey): entries that make up the condition.
            hidden_sizes (sequence of int): widths of the encoder's and the denoiser's layers.
            regression_sizes (sequence of int): widths of the regression's layers.
            estimator (str): ``diffusion`` learns to denoise (:class:`PreconditionedScoreNetwork`),
                ``mixture`` fits Gaussian mixtures (:class:`MixtureScoreNetwork`).
            schedule (VPNoiseSchedule, optional): the noising process.
            device (torch.device, optional): where the parameters live.
            **kwargs: passed to :class:`ConditionalScore`.

        Examples:
            >>> from tensordict import TensorDict
            >>> score = ConditionalScore.build(3, 2, 12, [("agents", "observation")])
            >>> data = TensorDict({
            ...     "agents": {"observation": torch.zeros(8, 3, 4), "action": torch.zeros(8, 3, 2),
            ...                "noised_action": torch.zeros(8, 3, 2)},
            ...     "noise_time": torch.full((8, 3, 1), 0.5)}, [8])
            >>> score(data)["agents", "noise"].shape
            torch.Size([8, 3, 2])
        """
        joint = kwargs.get("decomposition") == "joint"
        sequential = kwargs.get("decomposition", "sequential") == "sequential" and n_agents > 1
        check_option("estimator", estimator, Estimator)
        networks = {"diffusion": PreconditionedScoreNetwork, "mixture": MixtureScoreNetwork}
        network: NoisePredictor = networks[estimator](
            n_factors=1 if joint else n_agents,
            condition_dim=condition_dim,
            prefix_dim=n_agents * action_dim if sequential else 0,
            action_dim=n_agents * action_dim if joint else action_dim,
            hidden_sizes=hidden_sizes,
            regression_sizes=regression_sizes,
            schedule=schedule,
            device=device,
        )
        return cls(network, n_agents, action_dim, condition_keys, **kwargs)

    @property
    def schedule(self) -> VPNoiseSchedule:
        """The noising process."""
        return self.network.schedule

    def prefix_mask(self, batch: int = 1, device: torch.device | None = None) -> Tensor:
        """Which entries of the joint action a factor is given, ``[n_factors, batch or 1, n * d]``.

        Under a random order every row of the batch has a permutation of its own.

        Args:
            batch (int): number of rows for which a random order is drawn.
            device (torch.device, optional): where the mask is made.
        """
        n = self.n_agents
        if self.decomposition != "sequential":
            return torch.zeros(self.n_factors, 1, n * self.action_dim, device=device)
        if self.order == "random":
            rank = torch.rand(batch, n, device=device).argsort(-1)
        else:
            rank = torch.arange(n, device=device).unsqueeze(0)
            rank = rank.flip(-1) if self.order == "reversed" else rank
        precedes = rank.unsqueeze(-2) < rank.unsqueeze(-1)  # [batch, i, j]: j comes before i
        mask = precedes.float().repeat_interleave(self.action_dim, -1)
        return mask.transpose(0, 1)

    def encode(
        self, tensordict: TensorDictBase, action: Tensor, mask: Tensor | None = None
    ) -> ScoreContext:
        """Digest the condition and the prefix once, for any number of noise draws.

        Args:
            tensordict (TensorDictBase): holds the condition's entries, batch ``[*B]``.
            action (Tensor): clean joint action in [-1, 1] to take the prefix from, ``[*B, n, d]``.
            mask (Tensor, optional): from :meth:`prefix_mask`; made here if not given.
        """
        batch_dims = action.ndim - 2
        prefix = action.reshape(-1, self.n_agents * self.action_dim)
        if mask is None:
            mask = self.prefix_mask(prefix.shape[0], action.device)
        return self.network.encode(self._condition(tensordict, batch_dims), prefix, mask)

    def _condition(self, tensordict: TensorDictBase, batch_dims: int) -> Tensor:
        leaves = [tensordict.get(key).float() for key in self.condition_keys]
        if self.condition_on == "observation":
            rows = torch.cat([leaf.flatten(batch_dims + 1) for leaf in leaves], -1)
            return rows.reshape(-1, self.n_agents, rows.shape[-1]).transpose(0, 1)
        rows = torch.cat([leaf.reshape(*leaf.shape[:batch_dims], -1) for leaf in leaves], -1)
        return rows.reshape(1, -1, rows.shape[-1]).expand(self.n_factors, -1, -1)

    def fit_error(self, context: ScoreContext, action: Tensor) -> Tensor:
        """What is to be minimised beside the denoising error, mean over factors and entries.

        Args:
            context (ScoreContext): from :meth:`encode`.
            action (Tensor): logged joint actions in [-1, 1], ``[*B, n, d]``.

        Returns:
            Tensor: ``[*B]``.
        """
        dim = self.n_agents * self.action_dim // self.n_factors
        rows = action.reshape(-1, self.n_factors, dim).transpose(0, 1)
        error = self.network.fit_error(context, rows)
        return error.mean((0, -1)).reshape(action.shape[:-2])

    def predict(self, context: ScoreContext, noised: Tensor, t: Tensor) -> Tensor:
        """Predict the noise for ``K`` draws per row.

        Args:
            context (ScoreContext): from :meth:`encode`.
            noised (Tensor): noised joint actions, ``[K, *B, n, d]``.
            t (Tensor): noise times, ``[K, *B, n_factors, 1]``.

        Returns:
            Tensor: the predicted noise, ``[K, *B, n, d]``.
        """
        draws, dim = noised.shape[0], self.n_agents * self.action_dim // self.n_factors
        flat = noised.reshape(draws, -1, self.n_factors, dim).permute(2, 0, 1, 3)
        times = t.reshape(draws, -1, self.n_factors, 1).permute(2, 0, 1, 3)
        noise = self.network.denoise(context, flat, times)
        return noise.permute(1, 2, 0, 3).reshape(noised.shape)

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the predicted noise of one draw per row."""
        context = self.encode(tensordict, tensordict.get(self.action_key))
        noised = tensordict.get(self.noised_action_key).unsqueeze(0)
        noise = self.predict(context, noised, tensordict.get(self.time_key).unsqueeze(0))
        return tensordict.set(self.noise_key, noise.squeeze(0))

    @torch.no_grad()
    def sample(self, tensordict: TensorDictBase, n_steps: int = 16) -> Tensor:
        """Draw joint actions from the learned behaviour policy, agent after agent.

        Each factor runs the deterministic sampler of DDIM (Song et al., arXiv 2010.02502), evenly
        in time, conditioned on the actions already drawn. A diagnosis of the fit, never
        part of training or execution.

        Args:
            tensordict (TensorDictBase): holds the condition's entries, batch ``[*B]``.
            n_steps (int): denoising steps per factor.

        Returns:
            Tensor: joint actions in [-1, 1], ``[*B, n, d]``.
        """
        batch = tensordict.batch_size
        device = tensordict.get(self.condition_keys[0]).device
        action = torch.zeros(*batch, self.n_agents, self.action_dim, device=device)
        mask = self.prefix_mask(batch.numel(), device)
        # The rank of a factor is how many agents it is given; equal masks are drawn together.
        rank = mask[:, :, :: self.action_dim].sum(-1).expand(-1, batch.numel())
        level = torch.linspace(1.0, 1e-3, n_steps + 1, device=device)
        for turn in range(int(rank.max()) + 1):
            context = self.encode(tensordict, action, mask)
            x = torch.randn_like(action)
            for t, s in pairwise(level):
                times = t.expand(1, *batch, self.n_factors, 1)
                noise = self.predict(context, x.unsqueeze(0), times).squeeze(0)
                clean = (x - self.schedule.sigma(t) * noise) / self.schedule.alpha(t)
                clean = clean.clamp(-1, 1)
                noise = (x - self.schedule.alpha(t) * clean) / self.schedule.sigma(t)
                x = self.schedule.alpha(s) * clean + self.schedule.sigma(s) * noise
            now = (rank == turn).transpose(0, 1).reshape(*batch, -1, 1)
            action = torch.where(now, clean, action)
        return action
