"""Counterfactual conservative Q-learning, wired for BenchMARL."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Any

from benchmarl.algorithms.common import Algorithm
from tensordict.nn import TensorDictModule

from benchmarl_ssd.algorithms.macql import Macql, MacqlConfig
from benchmarl_ssd.modules.behaviour import BehaviourNetwork
from benchmarl_ssd.objectives import CfcqlLoss


class Cfcql(Macql):
    r"""Counterfactual conservative Q-learning (Shao et al., arXiv 2309.12696).

    .. math::
        L_Q = E\bigl[(Q(s, a) - y)^2 + \alpha (\sum_i \lambda_i T \log E_u e^{Q(s, a_{-i}, u) / T}
        - Q(s, a))\bigr]

    The mathematics is in :class:`~benchmarl_ssd.objectives.CfcqlLoss`; every option is explained
    in ``conf/algorithm/cfcql.yaml``.

    Args:
        critics (str): ``joint``; independent critics know no counterfactuals.
        weight_tau (float): how much agents close to the data weigh more; 0: not at all.
        behaviour_components (int): Gaussians of each agent's behaviour model, above 0.
        behaviour_num_cells (list of int): widths of its layers.
        counterfactual_actors (bool): whether actors climb beside the others' logged actions.
        **kwargs: see :class:`Macql`.
    """

    loss_class = CfcqlLoss

    def __init__(
        self,
        critics: str,
        weight_tau: float,
        behaviour_components: int,
        behaviour_num_cells: list[int],
        counterfactual_actors: bool,
        **kwargs: Any,
    ) -> None:
        if critics != "joint":
            raise ValueError(
                f"expected critics to be joint, found {critics!r}: independent critics know no "
                "counterfactuals; macql trains them"
            )
        self.learned_weights = weight_tau > 0
        self.behaviour_options: dict[str, Any] = {
            "n_components": behaviour_components,
            "hidden_sizes": list(behaviour_num_cells),
        }
        options = {"weight_tau": weight_tau, "counterfactual_actors": counterfactual_actors}
        super().__init__(critics=critics, loss_options=options, **kwargs)

    def networks(self, group: str) -> dict[str, TensorDictModule]:
        """Build the critics and, if the agents' weights are learned, their behaviour models."""
        networks = super().networks(group)
        if self.learned_weights:
            n_agents, action_dim = self.action_spec[group, "action"].shape
            keys, size = self.observed(group)
            networks["behaviour_network"] = BehaviourNetwork(
                n_agents,
                size // n_agents,
                action_dim,
                keys,
                device=self.device,
                **self.behaviour_options,
            )
        return networks


@dataclass
class CfcqlConfig(MacqlConfig):
    """Configuration of :class:`Cfcql`; the keys are explained in ``conf/algorithm/cfcql.yaml``."""

    weight_tau: float = MISSING
    behaviour_components: int = MISSING
    behaviour_num_cells: list[int] = MISSING
    counterfactual_actors: bool = MISSING

    @staticmethod
    def associated_class() -> type[Algorithm]:
        """Return the algorithm that the config belongs to."""
        return Cfcql
