"""How good the behaviour models are, before any policy is extracted from them."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase

from benchmarl_ssd.evaluation.episodes import energy_score
from benchmarl_ssd.objectives import SsdLoss

# Denoising steps per agent.
_STEPS = 16


class SamplePolicy(TensorDictModuleBase):
    """Plays what the fitted behaviour models would: joint actions drawn agent after agent.

    A centralised diagnosis, no policy that could be deployed: it is slow, and the agents see each
    other's actions.

    Args:
        losses (dict): the groups' losses, by name.
    """

    def __init__(self, losses: dict[str, SsdLoss]) -> None:
        super().__init__()
        self.losses = losses
        self.in_keys = [key for loss in losses.values() for key in loss.score_network.in_keys]
        self.out_keys = [loss.tensor_keys.action for loss in losses.values()]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write every group's actions, wherever the environment and the models are."""
        for loss in self.losses.values():
            device = next(iter(loss.score_network_params.values(True, True))).device
            action = loss.action_scaler.unscale(draw(loss, tensordict.to(device)))
            tensordict.set(loss.tensor_keys.action, action.to(tensordict.device))
        return tensordict


@torch.no_grad()
def draw(loss: SsdLoss, tensordict: TensorDictBase) -> torch.Tensor:
    """Draw joint actions in [-1, 1] from a loss's behaviour models, ``[*B, n, d]``."""
    with loss.score_network_params.to_module(loss.score_network):
        return loss.score_network.sample(loss.told_convention(tensordict), _STEPS)


def sample_quality(loss: SsdLoss, tensordict: TensorDictBase) -> dict[str, float]:
    """Compare joint actions drawn by the behaviour models with the logged ones.

    Args:
        loss (SsdLoss): holds the behaviour models.
        tensordict (TensorDictBase): logged transitions, ``[*B]``.

    Returns:
        dict: ``sample_energy``, the energy score of the draws (lower is better; see
        :func:`~benchmarl_ssd.evaluation.episodes.energy_score`), and ``unrelated_energy``, the
        same after the agents' actions were taken from different draws. Where the second is
        clearly higher, the models know which of the agents' actions belong together.
    """
    tensordict = tensordict.reshape(-1)  # windows too are compared step by step
    logged = loss.action_scaler.scale(tensordict.get(loss.tensor_keys.action))
    draws = torch.stack([draw(loss, tensordict) for _ in range(4)])
    first, second, third, fourth = draws
    agents = torch.arange(logged.shape[-2], device=logged.device).unsqueeze(-1) % 2 == 0
    unrelated = torch.where(agents, first, third), torch.where(agents, second, fourth)
    return {
        "sample_energy": energy_score(logged, first, second).item(),
        "unrelated_energy": energy_score(logged, *unrelated).item(),
    }
