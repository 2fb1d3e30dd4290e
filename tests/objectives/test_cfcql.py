"""The general loss tests, for counterfactual conservative Q-learning."""

from __future__ import annotations

from loss_tests import DEFAULT_KEYS, LossTests
from networks import ACT, OBS, OBSERVATION, N, make_actor, make_qvalue

from benchmarl_ssd.modules.behaviour import BehaviourNetwork
from benchmarl_ssd.objectives import CfcqlLoss


class TestCfcql(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    deterministic = ("loss_actor",)
    has_targets = True

    def options(self):
        return {}

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return CfcqlLoss(
            make_actor(action=keys["action"]),
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            reduction=reduction,
            **self.options(),
        )


class TestCfcqlLearnedWeights(TestCfcql):
    """Agents weighed by how close their policies are to the data."""

    trains = {**TestCfcql.trains, "loss_behaviour": "behaviour_network"}
    deterministic = ("loss_actor", "loss_behaviour")

    def options(self):
        behaviour = BehaviourNetwork(N, OBS, ACT, [OBSERVATION], hidden_sizes=(16,))
        return {"behaviour_network": behaviour, "weight_tau": 1.0, "penalty_share": 0.5}


class TestCfcqlOtherPolicies(TestCfcql):
    """Actors that climb beside the others' policies."""

    def options(self):
        return {"counterfactual_actors": False}
