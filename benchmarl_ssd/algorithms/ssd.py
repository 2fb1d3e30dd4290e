"""Sequential score decomposition, wired for BenchMARL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm
from tensordict.nn import TensorDictModule
from tensordict.utils import unravel_key
from torchrl.objectives import LossModule, ValueEstimators

from benchmarl_ssd.algorithms.common import OfflineAlgorithm
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.modules import ConditionalScore
from benchmarl_ssd.modules.noise import NoiseWindow
from benchmarl_ssd.objectives import SsdLoss


class Ssd(OfflineAlgorithm):
    r"""Sequential score decomposition (Qiao et al., arXiv 2505.05968).

    Stage 1 fits the behaviour's conditional scores and a joint critic to the data, stage 2
    extracts deterministic decentralised actors that climb

    .. math:: \nabla_{a_i} Q(s, a) + \tfrac{1}{\beta} \nabla_{a_i} \log \mu_i(a_i | s, a_{<i}) .

    The mathematics is in :class:`~benchmarl_ssd.objectives.SsdLoss`; every option is explained in
    ``conf/algorithm/ssd.yaml``.

    Args:
        decomposition (str): ``sequential``, ``marginal`` or ``joint``.
        order (str): order of the agents, ``fixed``, ``reversed`` or ``random``.
        condition (str, optional): what scores are conditioned on besides the prefix, ``state`` or
            ``observation``; ``None``: ``state`` for the joint score, else ``observation``.
        beta (float): temperature of the extraction, at least 0.
        normalise_q (bool): divide the critic's gradient by its mean norm.
        weighting (str): weight of the noise levels, ``one``, ``sigma2`` or ``alpha_over_sigma``.
        t_min (float): smallest noise time of the extraction.
        t_max (float): largest noise time at its start.
        t_final (float): largest noise time at its end.
        t_width (float): width of the window that slides between them.
        annealing (float): share of the extraction in which it slides.
        pretrain_fraction (float): share of the run's iterations in stage 1, in (0, 1).
        score_num_cells (list of int): widths of the score networks' layers.
        n_noise_draws (int): noise draws per transition in stage 1.
        n_policy_noise_draws (int): noise draws per transition in stage 2.
        num_qvalue_nets (int): critics in the ensemble.
        expectile (float): of the value regression, in (0, 1).
        loss_function (str): distance of the Q regression.
        score_lr (float, optional): learning rate; ``None``: the experiment's.
        critic_lr (float, optional): likewise.
        actor_lr (float, optional): likewise.
        **kwargs: see :class:`OfflineAlgorithm`.
    """

    def __init__(
        self,
        decomposition: str,
        order: str,
        condition: str | None,
        beta: float,
        normalise_q: bool,
        weighting: str,
        t_min: float,
        t_max: float,
        t_final: float,
        t_width: float,
        annealing: float,
        pretrain_fraction: float,
        score_num_cells: list[int],
        n_noise_draws: int,
        n_policy_noise_draws: int,
        num_qvalue_nets: int,
        expectile: float,
        loss_function: str,
        score_lr: float | None,
        critic_lr: float | None,
        actor_lr: float | None,
        **kwargs: Any,
    ) -> None:
        if not 0 < pretrain_fraction < 1:
            raise ValueError(f"expected pretrain_fraction in (0, 1), found {pretrain_fraction}")
        self.pretrain_fraction = pretrain_fraction
        self.score_options: dict[str, Any] = {
            "decomposition": decomposition,
            "order": order,
            "condition": condition or ("state" if decomposition == "joint" else "observation"),
            "hidden_sizes": list(score_num_cells),
        }
        self.loss_options: dict[str, Any] = {
            "beta": beta,
            "normalise_q": normalise_q,
            "weighting": weighting,
            "window": NoiseWindow(t_min, t_max, t_final, t_width, annealing),
            "n_noise_draws": n_noise_draws,
            "n_policy_noise_draws": n_policy_noise_draws,
            "num_qvalue_nets": num_qvalue_nets,
            "expectile": expectile,
            "loss_function": loss_function,
        }
        self.learning_rates = {"score": score_lr, "critic": critic_lr, "actor": actor_lr}
        super().__init__(**kwargs)

    @property
    def pretrain_steps(self) -> int | None:
        """Optimiser steps in stage 1, whole iterations; ``None`` trains everything at once."""
        if self.dataset is None or self.total_iterations < 2:
            return None
        iterations = round(self.pretrain_fraction * self.total_iterations)
        return min(max(1, iterations), self.total_iterations - 1) * self.steps_per_iteration

    def stage(self, loss_name: str) -> tuple[int, int]:
        """First and last (exclusive) optimiser step in which a loss is trained."""
        first, last = super().stage(loss_name)
        if self.pretrain_steps is None:
            return first, last
        return (
            (self.pretrain_steps, last) if loss_name == "loss_actor" else (0, self.pretrain_steps)
        )

    def score(self, group: str) -> ConditionalScore:
        """Build the conditional scores of a group."""
        n_agents, action_dim = self.action_spec[group, "action"].shape
        if self.state_spec is not None and self.score_options["condition"] == "state":
            keys = [unravel_key(key) for key in self.state_spec.keys(True, True)]
            size = sum(self.state_spec[key].shape.numel() for key in keys)
        else:
            spec = self.observation_spec[group]
            leaves = [key if isinstance(key, tuple) else (key,) for key in spec.keys(True, True)]
            keys = [(group, *leaf) for leaf in leaves]
            size = sum(spec[leaf].shape.numel() for leaf in leaves)
            if self.score_options["condition"] == "observation":
                size //= n_agents
        return ConditionalScore.build(
            n_agents, action_dim, size, keys, device=self.device, **self.score_options
        )

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        total = self.total_iterations * self.steps_per_iteration
        loss = SsdLoss(
            policy_for_loss,
            self.score(group),
            self.critic(group, "state_action_value", with_action=True),
            self.critic(group, "state_value", with_action=False),
            self.action_scaler(group),
            pretrain_steps=self.pretrain_steps,
            extraction_steps=max(1, total - (self.pretrain_steps or 0)),
            **self.loss_options,
        )
        self.set_team_keys(group, loss)
        loss.make_value_estimator(ValueEstimators.TD0, gamma=self.experiment_config.gamma)
        return loss, True

    def _get_parameters(self, group: str, loss: LossModule) -> dict[str, Iterable]:
        networks = {
            "loss_score": (loss.score_network_params, "score"),
            "loss_qvalue": (loss.qvalue_network_params, "critic"),
            "loss_value": (loss.value_network_params, "critic"),
            "loss_actor": (loss.actor_network_params, "actor"),
        }
        return {
            name: self.parameter_group(params.flatten_keys().values(), self.learning_rates[part])
            for name, (params, part) in networks.items()
        }


@dataclass
class SsdConfig(OfflineAlgorithmConfig):
    """Configuration of :class:`Ssd`; the keys are explained in ``conf/algorithm/ssd.yaml``."""

    dataset: str | None = MISSING
    decomposition: str = MISSING
    order: str = MISSING
    condition: str | None = MISSING
    beta: float = MISSING
    normalise_q: bool = MISSING
    weighting: str = MISSING
    t_min: float = MISSING
    t_max: float = MISSING
    t_final: float = MISSING
    t_width: float = MISSING
    annealing: float = MISSING
    pretrain_fraction: float = MISSING
    score_num_cells: list[int] = MISSING
    n_noise_draws: int = MISSING
    n_policy_noise_draws: int = MISSING
    num_qvalue_nets: int = MISSING
    expectile: float = MISSING
    loss_function: str = MISSING
    score_lr: float | None = MISSING
    critic_lr: float | None = MISSING
    actor_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Ssd

    @staticmethod
    def has_centralized_critic() -> bool:
        """Whether there is a joint critic: there is."""
        return True
