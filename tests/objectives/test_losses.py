"""The general loss tests, for each of our losses."""

from __future__ import annotations

from loss_tests import DEFAULT_KEYS, LossTests
from networks import (
    ACT,
    OBS,
    OBSERVATION,
    N,
    make_actor,
    make_qvalue,
    make_score,
    make_stochastic_actor,
    make_value,
)

from benchmarl_ssd.modules import ConditionalScore
from benchmarl_ssd.modules.conventions import ConventionNetwork
from benchmarl_ssd.objectives import BcLoss, JointIQLLoss, ScoreMatchingLoss, SsdLoss


class TestBc(LossTests):
    trains = {"loss_actor": "actor_network"}
    deterministic = ("loss_actor",)

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return BcLoss(make_actor(action=keys["action"]), reduction=reduction)


class TestJointIQL(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_value": "value_network"}
    deterministic = ("loss_qvalue", "loss_value")
    has_targets = True

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return JointIQLLoss(
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_value(out=keys["value"]),
            reduction=reduction,
        )


class TestScoreMatching(LossTests):
    trains = {"loss_score": "score_network"}
    decomposition, order = "sequential", "fixed"

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        score = make_score(decomposition=self.decomposition, order=self.order)
        return ScoreMatchingLoss(score, reduction=reduction)


def test_what_is_measured_lies_where_the_score_network_does():
    score = make_score().to("meta")
    loss = SsdLoss(make_actor(), score, make_qvalue(), make_value())
    assert loss.information.device.type == "meta"


class TestScoreMatchingMarginal(TestScoreMatching):
    decomposition = "marginal"


class TestScoreMatchingJoint(TestScoreMatching):
    decomposition = "joint"


class TestScoreMatchingMixture(TestScoreMatching):
    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return ScoreMatchingLoss(make_score(estimator="mixture"), reduction=reduction)


class TestScoreMatchingRandomOrder(TestScoreMatching):
    order = "random"


class TestSsd(LossTests):
    trains = {
        "loss_score": "score_network",
        "loss_qvalue": "qvalue_network",
        "loss_value": "value_network",
        "loss_actor": "actor_network",
    }
    deterministic = ("loss_value",)
    has_targets = True
    decomposition = "sequential"
    options: dict = {}
    actor = staticmethod(make_actor)

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return SsdLoss(
            self.actor(action=keys["action"]),
            make_score(decomposition=self.decomposition),
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_value(out=keys["value"]),
            reduction=reduction,
            **self.options,
        )


class TestSsdMarginal(TestSsd):
    decomposition = "marginal"


class TestSsdJoint(TestSsd):
    decomposition = "joint"


class TestSsdFrozen(TestSsd):
    """The paper's critic, which stays as stage 1 left it."""

    options = {"critic": "frozen"}


class TestSsdStochastic(TestSsd):
    actor = staticmethod(make_stochastic_actor)
    options = {"stochastic_actors": True}


class TestSsdConventions(TestSsd):
    trains = {**TestSsd.trains, "loss_convention": "convention_network"}

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        told = ("agents", "convention")
        return SsdLoss(
            make_actor(action=keys["action"]),
            ConditionalScore.build(
                N, ACT, OBS + 2, [OBSERVATION, told], condition="observation", hidden_sizes=(16,)
            ),
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            make_value(out=keys["value"]),
            convention_network=ConventionNetwork(N, 2, OBS, ACT, [OBSERVATION], hidden_sizes=(16,)),
            convention_key=told,
            reduction=reduction,
        )
