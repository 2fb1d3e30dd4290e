"""Sequential score decomposition, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm
from tensordict.nn import TensorDictModule
from tensordict.utils import unravel_key
from torchrl.objectives import LossModule, ValueEstimators

from benchmarl_ssd.algorithms.actor_critic import is_independent
from benchmarl_ssd.algorithms.config import OfflineAlgorithmConfig
from benchmarl_ssd.algorithms.sample_quality import SamplePolicy, sample_quality
from benchmarl_ssd.algorithms.staged import StagedAlgorithm
from benchmarl_ssd.data.statistics import downside
from benchmarl_ssd.evaluation.episodes import episode_returns, rollout_episodes
from benchmarl_ssd.modules import ConditionalScore
from benchmarl_ssd.modules.conventions import ConventionNetwork
from benchmarl_ssd.modules.noise import NoiseWindow
from benchmarl_ssd.objectives import SsdLoss


class Ssd(StagedAlgorithm):
    r"""Sequential score decomposition (Qiao et al., arXiv 2505.05968).

    Stage 1 fits the behaviour's conditional scores and a joint critic to the data, stage 2
    extracts deterministic decentralised actors that climb

    .. math:: \nabla_{a_i} Q(s, a) + \tfrac{1}{\beta} \nabla_{a_i} \log \mu_i(a_i | s, a_{<i}) .

    The mathematics is in :class:`~benchmarl_ssd.objectives.SsdLoss`; every option is explained in
    ``conf/algorithm/ssd.yaml``.

    Args:
        decomposition (str): ``sequential``, ``marginal`` or ``joint``.
        order (str): order of the agents, ``fixed``, ``reversed`` or ``random``.
        score_estimator (str): ``diffusion`` or ``mixture``, of Gaussians.
        condition (str, optional): what scores are conditioned on besides the prefix, ``state`` or
            ``observation``; ``None``: ``state`` for the joint score, else ``observation``.
        beta (float, optional): temperature of the extraction, at least 0; ``None``: from the data.
        normalise_q (bool): divide the critic's gradient by its mean norm.
        beta_warmup (float): share of stage 2 in which beta grows from 0, in [0, 1].
        weighting (str): weight of the noise levels, ``one``, ``sigma2`` or ``alpha_over_sigma``.
        n_conventions (int): components of the team's mixture, told to scores; 1: none, the paper's.
        t_min (float): smallest noise time of the extraction.
        t_max (float): largest noise time at its start.
        t_final (float): largest noise time at its end.
        t_width (float): width of the window that slides between them.
        annealing (float): share of the extraction in which it slides.
        pretrain_fraction (float): share of the run's iterations in stage 1, in (0, 1).
        score_share (float): share of the run's iterations that fits the scores, in (0, 1].
        critic_share (float): share of stage 1, its last, that fits the critic, in (0, 1].
        policy_share (float): share of a batch that the policies are extracted on, in (0, 1].
        score_num_cells (list of int): widths of the score networks' layers.
        regression_num_cells (list of int): widths of their regressions' layers.
        n_noise_draws (int): noise draws per transition in stage 1.
        n_policy_noise_draws (int): noise draws per transition in stage 2.
        num_qvalue_nets (int): critics in the ensemble.
        expectile (float): of the value regression, in (0, 1).
        loss_function (str): distance of the Q regression.
        reward_scale (float, optional): factor on the rewards; ``None``: one over the standard
            deviation of the team's reward in the dataset.
        critic (str): ``following`` the policies in stage 2, or ``frozen`` as in the paper.
        critics (str): ``joint``, one of the whole team, or ``independent``, one per agent of what
            that agent observes and does.
        critic_layer_norm (bool): layer norm and ReLU in MLP critics that ask for no norm.
        policy_noise (float): noise on the policies' next actions, of the critic that follows.
        noise_clip (float): bound of that noise.
        warm_start (bool): clone the behaviour in stage 1.
        stochastic_actors (bool): squashed Gaussian actors instead of deterministic ones.
        score_lr (float, optional): learning rate; ``None``: the experiment's.
        critic_lr (float, optional): likewise.
        actor_lr (float, optional): likewise, in stage 2.
        clone_lr (float, optional): of the policies in stage 1; ``None``: the experiment's.
        **kwargs: see :class:`OfflineAlgorithm`.
    """

    def __init__(
        self,
        decomposition: str,
        order: str,
        score_estimator: str,
        condition: str | None,
        beta: float | None,
        normalise_q: bool,
        beta_warmup: float,
        weighting: str,
        n_conventions: int,
        t_min: float,
        t_max: float,
        t_final: float,
        t_width: float,
        annealing: float,
        pretrain_fraction: float,
        score_share: float,
        critic_share: float,
        policy_share: float,
        score_num_cells: list[int],
        regression_num_cells: list[int],
        n_noise_draws: int,
        n_policy_noise_draws: int,
        num_qvalue_nets: int,
        expectile: float,
        loss_function: str,
        reward_scale: float | None,
        critic: str,
        critics: str,
        critic_layer_norm: bool,
        policy_noise: float,
        noise_clip: float,
        warm_start: bool,
        stochastic_actors: bool,
        score_lr: float | None,
        critic_lr: float | None,
        actor_lr: float | None,
        clone_lr: float | None,
        **kwargs: Any,
    ) -> None:
        if n_conventions < 1:
            raise ValueError(f"expected n_conventions of at least 1, found {n_conventions}")
        self.n_conventions = n_conventions
        self._set_up_stages(pretrain_fraction, score_share, critic_share, critic, warm_start)
        self.score_options: dict[str, Any] = {
            "decomposition": decomposition,
            "order": order,
            "estimator": score_estimator,
            "condition": condition or ("state" if decomposition == "joint" else "observation"),
            "hidden_sizes": list(score_num_cells),
            "regression_sizes": list(regression_num_cells),
        }
        self.loss_options: dict[str, Any] = {
            "beta": beta,
            "normalise_q": normalise_q,
            "beta_warmup": beta_warmup,
            "weighting": weighting,
            "window": NoiseWindow(t_min, t_max, t_final, t_width, annealing),
            "n_noise_draws": n_noise_draws,
            "n_policy_noise_draws": n_policy_noise_draws,
            "num_qvalue_nets": num_qvalue_nets,
            "expectile": expectile,
            "loss_function": loss_function,
            "critic": critic,
            "policy_noise": policy_noise,
            "noise_clip": noise_clip,
            "policy_share": policy_share,
            "warm_start": warm_start,
            "stochastic_actors": stochastic_actors,
        }
        self.stochastic_actors = stochastic_actors
        self.independent = is_independent(critics)
        self.reward_scale_option, self.critic_layer_norm = reward_scale, critic_layer_norm
        self.learning_rates = {
            "score": score_lr,
            "critic": critic_lr,
            "actor": actor_lr,
            "clone": clone_lr,
        }
        for name, rate in self.learning_rates.items():
            # The clone's rate is a share of the actors', which therefore cannot be zero.
            if rate is not None and (rate < 0 or (rate == 0 and name == "actor")):
                least = "above 0" if name == "actor" else "of at least 0"
                raise ValueError(f"expected {name}_lr {least}, or null, found {rate}")
        super().__init__(**kwargs)

    def learning_rate(self, network: str) -> float | None:
        """Return the rate of a network; ``None``: the experiment's."""
        part = {"qvalue": "critic", "value": "critic", "convention": "score"}.get(network, network)
        return self.learning_rates[part]

    def score(self, group: str) -> ConditionalScore:
        """Build the conditional scores of a group."""
        n_agents, action_dim = self.action_spec[group, "action"].shape
        if self.state_spec is not None and self.score_options["condition"] == "state":
            keys = [unravel_key(key) for key in self.state_spec.keys(True, True)]
            size = sum(self.state_spec[key].shape.numel() for key in keys)
        else:
            keys, size = self.observed(group)
            if self.score_options["condition"] == "observation":
                size //= n_agents
        if self.n_conventions > 1:
            keys = [*keys, (group, "convention")]
            per_agent = self.score_options["condition"] == "observation"
            size += self.n_conventions * (1 if per_agent else n_agents)
        return ConditionalScore.build(
            n_agents, action_dim, size, keys, device=self.device, **self.score_options
        )

    def conventions(self, group: str) -> ConventionNetwork | None:
        """Build the mixture of a group's conventions, if there is to be one."""
        if self.n_conventions == 1:
            return None
        n_agents, action_dim = self.action_spec[group, "action"].shape
        keys, size = self.observed(group)
        return ConventionNetwork(
            n_agents, self.n_conventions, size // n_agents, action_dim, keys, device=self.device
        )

    def diagnose(self, step: int) -> dict[str, float]:
        """Until the policies are extracted: how good samples of the scores are, also played."""
        last = self.pretrain_steps or self.total_iterations * self.steps_per_iteration
        if self.dataset is None or not 0 < step <= last:
            return {}
        losses = self.experiment.losses
        metrics = {}
        for group, loss in losses.items():
            batch = self.experiment.replay_buffers[group].sample().to(self.device)
            for name, value in sample_quality(loss, batch).items():
                metrics[f"score/{group}/{name}"] = value
        if self.plays_episodes:
            experiment = self.experiment
            count = experiment.config.evaluation_episodes
            rollouts = rollout_episodes(
                experiment.test_env, SamplePolicy(losses), count, experiment.max_steps
            )
            returns = episode_returns(rollouts, experiment.group_map)
            metrics["score/sample_return"] = returns.mean().item()
        return metrics

    def _get_loss(
        self, group: str, policy_for_loss: TensorDictModule, continuous: bool
    ) -> tuple[LossModule, bool]:
        total = self.total_iterations * self.steps_per_iteration
        critics = {"layer_norm": self.critic_layer_norm, "independent": self.independent}
        rewards = self.team_rewards(group)
        loss = SsdLoss(
            policy_for_loss,
            self.score(group),
            self.critic(group, "state_action_value", True, **critics),
            self.critic(group, "state_value", False, **critics),
            self.action_scaler(group),
            convention_network=self.conventions(group),
            convention_key=(group, "convention"),
            downside=1.0 if rewards is None else downside(rewards),
            reward_scale=self.reward_scale(rewards, self.reward_scale_option),
            score_steps=self.score_steps,
            critic_from=self.critic_from,
            pretrain_steps=self.pretrain_steps,
            extraction_steps=max(1, total - (self.pretrain_steps or 0)),
            **self.loss_options,
        )
        self.set_team_keys(group, loss, self.independent)
        loss.make_value_estimator(ValueEstimators.TD0, gamma=self.experiment_config.gamma)
        return loss, True


@dataclass
class SsdConfig(OfflineAlgorithmConfig):
    """Configuration of :class:`Ssd`; the keys are explained in ``conf/algorithm/ssd.yaml``."""

    dataset: str | None = MISSING
    decomposition: str = MISSING
    order: str = MISSING
    score_estimator: str = MISSING
    condition: str | None = MISSING
    beta: float | None = MISSING
    normalise_q: bool = MISSING
    beta_warmup: float = MISSING
    weighting: str = MISSING
    n_conventions: int = MISSING
    t_min: float = MISSING
    t_max: float = MISSING
    t_final: float = MISSING
    t_width: float = MISSING
    annealing: float = MISSING
    pretrain_fraction: float = MISSING
    score_share: float = MISSING
    critic_share: float = MISSING
    policy_share: float = MISSING
    score_num_cells: list[int] = MISSING
    regression_num_cells: list[int] = MISSING
    n_noise_draws: int = MISSING
    n_policy_noise_draws: int = MISSING
    num_qvalue_nets: int = MISSING
    expectile: float = MISSING
    loss_function: str = MISSING
    reward_scale: float | None = MISSING
    centre_rewards: bool | None = MISSING
    critic: str = MISSING
    critics: str = MISSING
    critic_layer_norm: bool = MISSING
    policy_noise: float = MISSING
    noise_clip: float = MISSING
    warm_start: bool = MISSING
    stochastic_actors: bool = MISSING
    score_lr: float | None = MISSING
    critic_lr: float | None = MISSING
    actor_lr: float | None = MISSING
    clone_lr: float | None = MISSING
    lr_schedule: str = MISSING
    final_evaluation_episodes: int | None = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Ssd

    @staticmethod
    def has_centralized_critic() -> bool:
        """Whether there is a joint critic: by default there is."""
        return True
