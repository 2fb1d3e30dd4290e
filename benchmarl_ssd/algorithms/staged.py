"""The two stages of a run, and what is trained in each."""

from __future__ import annotations

import math

from benchmarl_ssd.algorithms.common import OfflineAlgorithm

# Share of stage 2 before learning rates fall.
_HOLD = 0.6


class StagedAlgorithm(OfflineAlgorithm):
    """Base of an algorithm that first fits models and a critic, and then extracts policies.

    Scores are fitted from the first step on, for ``score_share`` of the run, the critic in the last
    ``critic_share`` of stage 1, and in stage 2, too, if it follows the policies. Actors clone the
    behaviour in stage 1 and are extracted in stage 2. Borders lie between iterations.
    """

    learning_rates: dict[str, float | None]

    def _set_up_stages(
        self,
        pretrain_fraction: float,
        score_share: float,
        critic_share: float,
        critic: str,
        warm_start: bool,
    ) -> None:
        if not 0 < pretrain_fraction < 1:
            raise ValueError(f"expected pretrain_fraction in (0, 1), found {pretrain_fraction}")
        for name, share in (("score_share", score_share), ("critic_share", critic_share)):
            if not 0 < share <= 1:
                raise ValueError(f"expected {name} in (0, 1], found {share}")
        self.pretrain_fraction = pretrain_fraction
        self.score_share, self.critic_share = score_share, critic_share
        self.following, self.warm_start = critic == "following", warm_start

    @property
    def pretrain_steps(self) -> int | None:
        """Optimiser steps in stage 1, whole iterations; ``None`` trains everything at once."""
        if self.dataset is None or self.total_iterations < 2:
            return None
        iterations = round(self.pretrain_fraction * self.total_iterations)
        return min(max(1, iterations), self.total_iterations - 1) * self.steps_per_iteration

    @property
    def score_steps(self) -> int | None:
        """Optimiser steps that fit the scores, whole iterations; ``None``: all of them."""
        if self.pretrain_steps is None:
            return None
        return max(1, round(self.score_share * self.total_iterations)) * self.steps_per_iteration

    @property
    def critic_from(self) -> int:
        """First optimiser step that fits the critic, at the border of an iteration."""
        if self.pretrain_steps is None:
            return 0
        iterations = self.pretrain_steps // self.steps_per_iteration
        mine = min(max(1, round(self.critic_share * iterations)), iterations)
        return (iterations - mine) * self.steps_per_iteration

    def stage(self, loss_name: str) -> tuple[int, int]:
        """First and last (exclusive) optimiser step in which a loss is trained."""
        first, last = super().stage(loss_name)
        if self.pretrain_steps is None:
            return first, last
        if loss_name == "loss_actor" or (loss_name == "loss_qvalue" and self.following):
            return self.pretrain_steps, last
        if loss_name in ("loss_qvalue", "loss_value"):
            return self.critic_from, self.pretrain_steps
        return 0, self.score_steps or last

    def held(self, loss_name: str) -> float:
        """With a critic that follows, rates are full for most of stage 2, as its targets move."""
        return _HOLD if self.following and loss_name in ("loss_qvalue", "loss_actor") else 0.0

    def lr_factor(self, group: str, loss_name: str, step: int) -> float:
        """Share of the full rate; of actors that clone first, at least that of the clone."""
        factor = super().lr_factor(group, loss_name, step)
        clones = loss_name == "loss_actor" and self.warm_start
        if not clones or self.pretrain_steps is None:
            return factor
        # The rate of the clone falls over the whole run: narrow behaviour goes on being fitted.
        total = self.total_iterations * self.steps_per_iteration
        fading = 0.5 * (1 + math.cos(math.pi * step / total))
        if self.lr_schedule == "constant":
            fading = 1.0 if step < self.pretrain_steps else 0.0
        rates = (self.learning_rates[part] for part in ("clone", "actor"))
        clone, actor = (self.experiment_config.lr if rate is None else rate for rate in rates)
        # Where actions tell nothing there is nothing to clone but their noise.
        known = self.experiment.losses[group].information.nan_to_num(0.0).item()
        cloning = clone / actor * min(1.0, known) * fading
        return cloning if step < self.pretrain_steps else max(cloning, factor)
