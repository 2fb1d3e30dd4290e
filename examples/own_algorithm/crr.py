"""An algorithm of your own: critic-regularised regression (Wang et al., arXiv 2006.15134).

Actors clone the logged actions that a critic finds better than its expectation. Inside the package
these are three new files (loss, wiring, yaml) and no other edit; outside, this and the yaml.

    python examples/own_algorithm/crr.py coordination/bandit/modes
"""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarl.experiment import Experiment, ExperimentConfig
from benchmarl.models import MlpConfig
from tensordict.nn import dispatch

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import ActorCriticAlgorithm, ActorCriticConfig
from benchmarl_ssd.environments import CoordinationTask
from benchmarl_ssd.objectives import ActorLoss, JointIQLLoss


class CrrLoss(JointIQLLoss, ActorLoss):
    """L = E[1(min_k Q_k(s, a) > V(s)) ||pi(o) - a||^2], V the mean of Q over logged actions."""

    loss_names = ("loss_qvalue", "loss_value", "loss_actor")

    def __init__(self, actor_network, qvalue_network, value_network, action_scaler, **options):
        super().__init__(qvalue_network, value_network, action_scaler, expectile=0.5, **options)
        self._set_up_actor(actor_network)

    @dispatch
    def forward(self, tensordict):
        losses = {"loss_qvalue": self.qvalue_loss(tensordict)[0]}
        losses["loss_value"] = self.value_loss(tensordict)[0]
        better = (self.advantage(tensordict) > 0).float()
        losses["loss_actor"] = self.clone_loss(tensordict, better.unsqueeze(-1))
        return self.reduce(losses, share_cloned=better.mean())


class Crr(ActorCriticAlgorithm):
    loss_class, has_value = CrrLoss, True


@dataclass
class CrrConfig(ActorCriticConfig):
    @staticmethod
    def associated_class():
        return Crr


if __name__ == "__main__":
    crr = importlib.import_module("crr")  # under this name checkpoints find the classes again
    algorithm = crr.CrrConfig.get_from_yaml(str(Path(__file__).with_name("crr.yaml")))
    algorithm.dataset = sys.argv[1]
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.max_n_iters = config.evaluation_interval = 5
    task, network = CoordinationTask.BANDIT.get_from_yaml(), MlpConfig.get_from_yaml()
    Experiment(task, algorithm, network, 0, config, critic_model_config=network).run()
