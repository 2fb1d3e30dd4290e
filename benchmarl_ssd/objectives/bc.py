"""Behaviour cloning of deterministic actors."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, dispatch

from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives.actors import ActorLoss


class BcLoss(ActorLoss):
    r"""Regression of the logged actions on what each agent observed.

    .. math:: L_{actor} = \sum_i E \| \pi_i(o_i) - a_i \|^2 ,

    averaged over agents and action entries, actions in [-1, 1]. The minimiser is the conditional
    mean: on data with several conventions, an action between them.

    Args:
        actor_network (TensorDictModule): deterministic actors of the group.
        action_scaler (ActionScaler, optional): maps the task's actions to [-1, 1].
        reduction (str): ``mean``, ``sum`` or ``none``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = TensorDictModule(torch.nn.Linear(3, 1), in_keys=[("agents", "observation")],
        ...                          out_keys=[("agents", "action")])
        >>> data = TensorDict({"agents": {"observation": torch.randn(8, 2, 3),
        ...                               "action": torch.rand(8, 2, 1)}}, [8])
        >>> BcLoss(actor)(data)["loss_actor"].shape
        torch.Size([])
    """

    loss_names: tuple[str, ...] = ("loss_actor",)

    def __init__(
        self,
        actor_network: TensorDictModule,
        action_scaler: ActionScaler | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(action_scaler, reduction)
        self._set_up_actor(actor_network)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_actor``."""
        return self.reduce({"loss_actor": self.clone_loss(tensordict)})
