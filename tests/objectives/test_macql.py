"""The general loss tests, for conservative Q-learning of a team."""

from __future__ import annotations

from loss_tests import DEFAULT_KEYS, LossTests
from networks import make_actor, make_qvalue

from benchmarl_ssd.objectives import MacqlLoss


class TestMacql(LossTests):
    trains = {"loss_qvalue": "qvalue_network", "loss_actor": "actor_network"}
    deterministic = ("loss_actor",)
    has_targets = True
    loss_class = MacqlLoss
    options: dict = {}

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        return self.loss_class(
            make_actor(action=keys["action"]),
            make_qvalue(action=keys["action"], out=keys["state_action_value"]),
            reduction=reduction,
            **self.options,
        )


class TestMacqlOfAShare(TestMacql):
    """The penalty on some of the rows."""

    options = {"penalty_share": 0.5, "proposals": ["uniform"]}
