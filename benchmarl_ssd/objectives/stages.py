"""Which losses are trained when: fitting to the data first, extraction after."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal

import torch
from tensordict.utils import NestedKey
from torch import Tensor

from benchmarl_ssd.modules.conditional_score import check_option
from benchmarl_ssd.objectives.common import OfflineLoss

CriticMode = Literal["following", "frozen"]


class StagesMixin(OfflineLoss):
    """Counts the training calls of a loss in ``step``, part of its state, and divides them.

    Stage 1, of ``pretrain_steps`` calls, fits scores in the first ``score_steps`` and critics from
    call ``critic_from`` on, and clones the actors with ``warm_start``; stage 2 extracts the actors,
    beside a critic that is ``following``. Without ``pretrain_steps`` all is trained in every call.
    """

    n_conventions: int

    def _set_up_stages(
        self,
        critic: CriticMode,
        warm_start: bool,
        score_steps: int | None,
        critic_from: int,
        pretrain_steps: int | None,
        extraction_steps: int,
    ) -> None:
        check_option("critic", critic, CriticMode)
        for name, found, least in (
            ("pretrain_steps", pretrain_steps or 0, 0),
            ("score_steps", score_steps or 0, 0),
            ("critic_from", critic_from, 0),
            ("extraction_steps", extraction_steps, 1),
        ):
            if found < least:
                raise ValueError(f"expected {name} of at least {least}, found {found}")
        self.critic, self.warm_start = critic, warm_start
        self.score_steps, self.critic_from = score_steps, critic_from
        self.pretrain_steps, self.extraction_steps = pretrain_steps, extraction_steps
        self.step = 0

    def get_extra_state(self) -> Tensor:
        """Return the number of training calls so far; part of ``state_dict``."""
        return torch.tensor(self.step)

    def set_extra_state(self, state: Tensor) -> None:
        """Set the number of training calls so far."""
        self.step = int(state)

    def call_key(self) -> Hashable:
        """The losses of the next call, and whether it extracts."""
        return (*self.out_keys, self.extracts)

    def end_call(self) -> None:
        """Count a call that was replayed, as one that is made counts itself."""
        if self.training:
            self.step += 1

    @property
    def extracts(self) -> bool:
        """Whether the next call is of stage 2; it is always where there are no stages."""
        return self.pretrain_steps is None or self.step >= self.pretrain_steps

    @property
    def follows(self) -> bool:
        """Whether the critic of the next call is of the current policies."""
        return self.extracts and self.critic == "following"

    @property
    def progress(self) -> float:
        """Share of the extraction that is done, in [0, 1]."""
        if self.pretrain_steps is None:
            return 1.0
        return min(max(0.0, (self.step - self.pretrain_steps) / self.extraction_steps), 1.0)

    @property
    def out_keys(self) -> list[NestedKey]:
        """Losses that the next call gives, those of its stage; ``loss_names`` has all of them."""
        online, border = self.pretrain_steps is None, self.pretrain_steps or 0
        last = border if self.score_steps is None else self.score_steps
        scores = online or self.step < last
        critic = online or self.critic_from <= self.step < border
        given = {
            "loss_score": scores,
            "loss_qvalue": critic or self.follows,
            "loss_value": critic,
            "loss_actor": self.extracts or self.warm_start,
            "loss_convention": scores and self.n_conventions > 1,
        }
        return [name for name in self.loss_names if given[name]]

    @out_keys.setter
    def out_keys(self, values: list[NestedKey]) -> None:
        self.loss_names = tuple(str(value) for value in values)
