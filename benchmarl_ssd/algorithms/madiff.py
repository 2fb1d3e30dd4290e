"""MADiff, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

import torch
from benchmarl.algorithms.common import Algorithm
from benchmarl.models.common import ModelConfig
from tensordict.nn import TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torchrl.data import Composite, Unbounded
from torchrl.objectives import LossModule

from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.data.return_ranks import return_ranks
from benchmarl_ssd.data.statistics import sample_rows, team_reward
from benchmarl_ssd.modules.plan_diffusion import PlanDiffusion
from benchmarl_ssd.objectives import MadiffLoss

_PLAN = "planned_change"
# Windows that are looked at for the plans' scales.
_N_WINDOWS = 50_000


class Madiff(OfflineAlgorithm):
    """MADiff-D: every agent plans for the team by diffusion and acts by inverse dynamics.

    See :class:`~benchmarl_ssd.objectives.MadiffLoss`. BenchMARL's model is that of the inverse
    dynamics. Episodes shorter than a window are left out of the data. Without a dataset, plans
    are of one step and know no returns.

    Args:
        horizon (int): steps that are planned, at least 1; at most the mean episode's.
        target_rank (float): rank among the data's returns that plans are to have, in [0, 1].
        guidance (float): weight of that condition, 0 or more.
        condition_dropout (float): how often training tells no rank, in [0, 1].
        temperature (float): standard deviation of the noise that plans start from, 0 or more.
        n_denoising_steps (int): steps that a plan takes, at least 1.
        n_noise_draws (int): draws of noise per window in training, at least 1.
        plan_width (int): features per agent, a multiple of ``plan_heads``.
        plan_depth (int): blocks of the denoiser, at least 1.
        plan_heads (int): heads of the attention, at least 1.
        plan_lr (float, optional): learning rate of the plans; ``None``: the experiment's.
        actor_lr (float, optional): likewise of the inverse dynamics.
        **kwargs: see :class:`OfflineAlgorithm`.
    """

    def __init__(
        self,
        horizon: int,
        target_rank: float,
        guidance: float,
        condition_dropout: float,
        temperature: float,
        n_denoising_steps: int,
        n_noise_draws: int,
        plan_width: int,
        plan_depth: int,
        plan_heads: int,
        plan_lr: float | None,
        actor_lr: float | None,
        **kwargs: Any,
    ) -> None:
        if horizon < 1:
            raise ValueError(f"expected a horizon of at least 1, found {horizon}")
        self.horizon = horizon
        self.plan_options: dict[str, Any] = {
            "rank": target_rank,
            "guidance": guidance,
            "temperature": temperature,
            "n_steps": n_denoising_steps,
            "width": plan_width,
            "depth": plan_depth,
            "n_heads": plan_heads,
        }
        self.loss_options: dict[str, Any] = {
            "condition_dropout": condition_dropout,
            "n_noise_draws": n_noise_draws,
        }
        self.learning_rates = {"plan": plan_lr, "actor": actor_lr}
        super().__init__(**kwargs)

    # -- data ---------------------------------------------------------------------------------

    def window_length(self) -> int | None:
        """Return the steps of a window; of a whole episode for recurrent inverse dynamics."""
        whole = self._sequence_length()
        return whole if self.has_rnn else min(self.horizon, whole)

    def derived_entries(self, group: str) -> dict[NestedKey, torch.Tensor]:
        """Rank the returns to go of all transitions, by the mean reward of the group."""
        assert self.dataset is not None
        reward = team_reward([self.rewards(group)])
        ranks = return_ranks(reward, self.dataset.data["episode"])
        return {"return_rank": ranks.unsqueeze(-1)}

    # -- networks -----------------------------------------------------------------------------

    def actor_inputs(self, group: str) -> Composite:
        """Inverse dynamics read the change to the next observation, too."""
        spec = self.observation_spec[group].clone()
        n_agents = len(self.group_map[group])
        shape = (n_agents, self.observed(group)[1] // n_agents)
        spec[_PLAN] = Unbounded(shape=shape, device=spec.device)
        return spec

    def _get_policy_for_loss(
        self, group: str, model_config: ModelConfig, continuous: bool
    ) -> TensorDictModule:
        inverse = super()._get_policy_for_loss(group, model_config, continuous)
        dataset, n_agents = self.dataset, len(self.group_map[group])
        keys, size = self.observed(group)
        whole = 1 if dataset is None else self._sequence_length()
        plan = PlanDiffusion.build(
            n_agents,
            size // n_agents,
            horizon=min(self.horizon, whole),
            observation_keys=keys,
            plan_key=(group, _PLAN),
            conditional=dataset is not None,
            device=self.device,
            **self.plan_options,
        )
        if dataset is not None:
            data = dataset.group_data(group)
            plan.frame.fit(
                plan.observe(data, 1),
                plan.observe(data["next"], 1),
                data["episode"],
                sample_rows(len(data), _N_WINDOWS),
            )
        return TensorDictSequential(plan, inverse)

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        plan, inverse = policy_for_loss
        loss = MadiffLoss(
            plan,
            inverse,
            action_scaler=self.action_scaler(group),
            windows=self.dataset is not None or self.has_rnn,
            **self.loss_options,
        )
        self.set_team_keys(group, loss)
        return loss, False

    def learning_rate(self, network: str) -> float | None:
        """Return the rate of the plans or of the inverse dynamics."""
        return self.learning_rates[network]


@dataclass
class MadiffConfig(OfflineAlgorithmConfig):
    """Configuration of :class:`Madiff`; ``conf/algorithm/madiff.yaml`` explains the keys."""

    dataset: str | None = MISSING
    horizon: int = MISSING
    target_rank: float = MISSING
    guidance: float = MISSING
    condition_dropout: float = MISSING
    temperature: float = MISSING
    n_denoising_steps: int = MISSING
    n_noise_draws: int = MISSING
    plan_width: int = MISSING
    plan_depth: int = MISSING
    plan_heads: int = MISSING
    plan_lr: float | None = MISSING
    actor_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Madiff
