"""What the algorithms are wired from whose critic may be a mixture of the agents' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from tensordict.nn import TensorDictModule, TensorDictSequential
from tensordict.utils import unravel_key
from torchrl.objectives import LossModule

from benchmarl_ssd.algorithms.actor_critic import ActorCriticAlgorithm
from benchmarl_ssd.modules.mixer import LinearMixer


class MixedCriticAlgorithm(ActorCriticAlgorithm):
    """Base of the algorithms that know a third kind of critics, ``mixed``.

    Independent critics are followed by a :class:`~benchmarl_ssd.modules.mixer.LinearMixer` of the
    task's state, or of all that the group observes where it has none. Both are one network, and so
    have one optimiser: BenchMARL makes one for each loss and steps them one after the other.

    Args:
        critics (str): ``joint``, ``independent`` or ``mixed``.
        mixer_num_cells (sequence of int): widths of the mixer's layers.
        **kwargs: see :class:`ActorCriticAlgorithm`.
    """

    has_local_values: ClassVar[bool] = False
    """Whether a mixed critic comes with a state-value per agent, instead of the team's."""

    def __init__(self, critics: str, mixer_num_cells: Sequence[int], **kwargs: Any) -> None:
        self.mixed, self.mixer_num_cells = critics == "mixed", list(mixer_num_cells)
        if critics not in ("joint", "independent", "mixed"):
            raise ValueError(
                f"expected critics to be one of joint, independent, mixed; found {critics!r}"
            )
        super().__init__(critics="independent" if self.mixed else critics, **kwargs)

    def mixer(self, group: str) -> LinearMixer:
        """Build the mixer of a group's critics."""
        if self.state_spec is not None:
            keys = [unravel_key(key) for key in self.state_spec.keys(True, True)]
            size = sum(self.state_spec[key].shape.numel() for key in keys)
        else:
            keys, size = self.observed(group)
        return LinearMixer(
            len(self.group_map[group]),
            size,
            keys,
            value_key=(group, "state_action_value"),
            out_key="state_action_value",
            hidden_sizes=self.mixer_num_cells,
            device=self.device,
        )

    def networks(self, group: str) -> dict[str, TensorDictModule]:
        """Build the loss's networks beside the actors, by the names of its arguments."""
        networks = super().networks(group)
        if self.mixed:
            networks["qvalue_network"] = TensorDictSequential(
                networks["qvalue_network"], self.mixer(group)
            )
            if "value_network" in networks and not self.has_local_values:
                networks["value_network"] = self.critic(
                    group, "state_value", False, self.critic_layer_norm
                )
        return networks

    def set_team_keys(self, group: str, loss: LossModule, independent: bool = False) -> None:
        """Point a loss at the group's entries; a mixed critic's total is the team's."""
        super().set_team_keys(group, loss, independent)
        if self.mixed:
            loss.set_keys(state_action_value="state_action_value")
            if not self.has_local_values:
                loss.set_keys(value="state_value")
