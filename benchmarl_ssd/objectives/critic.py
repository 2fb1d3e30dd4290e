"""Action-value critics of a team, and what they are regressed on."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import ValueEstimators, distance_loss
from torchrl.objectives.utils import _vmap_func
from torchrl.objectives.value import TD0Estimator

from benchmarl_ssd.objectives.common import OfflineLoss


class CriticLoss(OfflineLoss):
    """Base of the losses with an ensemble of action-value critics of the team's reward.

    A *joint* critic :math:`Q_k(s, a)` reads all agents and writes ``[*B, 1]``. *Independent*
    critics :math:`Q_{k,i}(o_i, a_i)` write one value per agent, ``[*B, n, 1]``; each of them
    regresses the same team reward. Which they are is seen from what the network writes.

    Meant to be inherited from: a subclass calls ``_set_up_qvalue`` in its constructor.
    """

    default_value_estimator = ValueEstimators.TD0
    qvalue_network: TensorDictModule
    qvalue_network_params: TensorDictParams
    target_qvalue_network_params: TensorDictParams
    # A state-value network, where a subclass has one; bootstraps are then taken from it.
    value_network: TensorDictModule | None = None

    def _set_up_qvalue(
        self,
        qvalue_network: TensorDictModule,
        num_qvalue_nets: int = 2,
        loss_function: str = "l2",
        reward_scale: float = 1.0,
    ) -> None:
        if num_qvalue_nets < 1:
            raise ValueError(f"expected num_qvalue_nets of at least 1, found {num_qvalue_nets}")
        if loss_function not in ("l1", "l2", "smooth_l1"):
            raise ValueError(
                f"expected loss_function to be one of l1, l2, smooth_l1; found {loss_function!r}"
            )
        if reward_scale <= 0:
            raise ValueError(f"expected reward_scale above 0, found {reward_scale}")
        self.loss_function, self.reward_scale = loss_function, reward_scale
        self.convert_to_functional(
            qvalue_network, "qvalue_network", num_qvalue_nets, create_target_params=True
        )
        self._make_vmap()

    def _make_vmap(self) -> None:
        self._vmap_qvalue_network = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness
        )

    def make_value_estimator(self, value_type: ValueEstimators | None = None, **hyperparams):
        """Set the discount, ``make_value_estimator(gamma=0.95)``; only TD(0) fits offline data."""
        value_type = value_type or self.default_value_estimator
        if value_type != ValueEstimators.TD0:
            raise NotImplementedError(
                f"expected the value estimator TD0, found {value_type}: logged actions are not the "
                "policy's, so multi-step returns would be biased"
            )
        hyperparams.setdefault("gamma", 0.99)
        self.value_type = value_type
        self._value_estimator = TD0Estimator(value_network=self.value_network, **hyperparams)
        self._forward_value_estimator_keys()
        return self

    def _forward_value_estimator_keys(self, **kwargs) -> None:
        super()._forward_value_estimator_keys(**kwargs)
        if self._value_estimator is not None:
            self._value_estimator.set_keys(
                value=self.tensor_keys.value,
                reward="team_reward",
                done="team_done",
                terminated="team_terminated",
            )

    def _observed_keys(self) -> list[NestedKey]:
        action = unravel_key(self.tensor_keys.action)
        return [key for key in self.qvalue_network.in_keys if unravel_key(key) != action]

    def _read_keys(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [
            *super()._read_keys(),
            *self._observed_keys(),
            *[("next", key) for key in (keys.reward, keys.done, keys.terminated)],
        ]

    def qvalues(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Every critic's value of the entries' state and action, ``[N, *B]`` or ``[N, *B, n]``."""
        read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        value = self._vmap_qvalue_network(read, params).get(self.tensor_keys.state_action_value)
        return value.squeeze(-1)

    def qvalues_at(
        self, tensordict: TensorDictBase, scaled_action: Tensor, params: TensorDictParams
    ) -> Tensor:
        """Every critic's value of other joint actions, ``[*B, n, d]`` in [-1, 1].

        Shaped as by :meth:`qvalues`. The gradient reaches ``scaled_action``.
        """
        read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        read.set(self.tensor_keys.action, self.action_scaler.unscale(scaled_action))
        return self.qvalues(read, params)

    def qvalues_of(
        self, tensordict: TensorDictBase, candidates: Tensor, params: TensorDictParams
    ) -> Tensor:
        """Every critic's value of K joint actions in each state, ``[N, K, *B]``, also ``[..., n]``.

        Args:
            tensordict (TensorDictBase): transitions, batch ``[*B]``.
            candidates (Tensor): joint actions in [-1, 1], ``[K, *B, n, d]``.
            params (TensorDictParams): parameters of the critics.
        """
        count = candidates.shape[0]
        read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        if not tensordict.batch_size:
            return self.qvalues_at(read.expand(count), candidates, params)
        # Rows of one batch: recurrent critics take no further dimension.
        rows = torch.cat([read] * count)
        return self.qvalues_at(rows, candidates.flatten(0, 1), params).unflatten(1, (count, -1))

    def own_qvalues_of(
        self,
        tensordict: TensorDictBase,
        candidates: Tensor,
        team_action: Tensor,
        params: TensorDictParams,
        joint: bool,
    ) -> Tensor:
        """Values of each agent's own candidates, the others' actions as given, ``[N, K, *B, n]``.

        Args:
            tensordict (TensorDictBase): transitions, batch ``[*B]``.
            candidates (Tensor): every agent's candidates in [-1, 1], ``[K, *B, n, d]``.
            team_action (Tensor): what the others do in the meantime, ``[*B, n, d]`` in [-1, 1].
            params (TensorDictParams): parameters of the critics.
            joint (bool): whether the critics are joint; independent ones do not see the others.
        """
        if not joint:
            return self.qvalues_of(tensordict, candidates, params)
        count, n_agents = candidates.shape[0], candidates.shape[-2]
        own = torch.eye(n_agents, dtype=torch.bool, device=candidates.device)
        own = own.reshape(n_agents, *[1] * tensordict.ndim, n_agents, 1)
        teams = torch.where(own, candidates.unsqueeze(1), team_action).flatten(0, 1)
        values = self.qvalues_of(tensordict, teams, params).unflatten(1, (count, n_agents))
        return values.movedim(2, -1)

    def per_sample(self, values: Tensor, tensordict: TensorDictBase) -> Tensor:
        """Mean over agents of what independent critics give, ``[*B, n]``; else unchanged."""
        return values.mean(-1) if values.ndim > tensordict.ndim else values

    @torch.no_grad()
    def td_target(self, tensordict: TensorDictBase, next_value: Tensor) -> Tensor:
        r""":math:`r + \gamma (1 - terminated) V(s')`, shaped as ``next_value``.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            next_value (Tensor): value of the next states, ``[*B]`` or ``[*B, n]``.
        """
        agents = next_value.shape[tensordict.ndim :]
        transition = self.team_transition(tensordict, *agents)
        return self.value_estimator.value_estimate(
            transition, next_value=next_value.unsqueeze(-1)
        ).squeeze(-1)

    def regress(
        self, tensordict: TensorDictBase, next_value: Tensor, predicted: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Distance of the logged actions' values to their TD(0) target.

        Args:
            tensordict (TensorDictBase): logged transitions, batch ``[*B]``.
            next_value (Tensor): value of the next states, ``[*B]`` or ``[*B, n]``.
            predicted (Tensor, optional): the logged actions' values, if they are known already.

        Returns:
            The loss ``[*B]``, summed over critics and meant over agents, and metrics.
        """
        target = self.td_target(tensordict, next_value)
        if predicted is None:
            predicted = self.qvalues(tensordict, self.qvalue_network_params)
        loss = distance_loss(predicted, target.expand_as(predicted), self.loss_function)
        return self.per_sample(loss.sum(0), tensordict), {"qvalue": predicted.mean()}

    def action_gradient(self, tensordict: TensorDictBase, scaled_action: Tensor) -> Tensor:
        r"""Return :math:`\nabla_u \min_k Q_k(s, u)` at joint actions ``u`` in [-1, 1].

        For independent critics every agent's gradient is that of its own.
        """
        leaf = scaled_action.detach().requires_grad_()
        with torch.enable_grad():
            values = self.qvalues_at(tensordict, leaf, self.qvalue_network_params.data)
            value = values.min(0).values
        return torch.autograd.grad(value.sum(), leaf)[0]

    def policy_value(
        self, tensordict: TensorDictBase, action: Tensor, team_action: Tensor | None = None
    ) -> Tensor:
        """First critic's value of the policies' actions, for the actors to climb.

        The gradient reaches the actions alone, each agent's only from its own critic where these
        are independent, and is taken here: a step of the critic before the actors' backward, as
        BenchMARL does it, changes nothing.

        Args:
            tensordict (TensorDictBase): transitions, batch ``[*B]``.
            action (Tensor): the policies' joint actions in [-1, 1], ``[*B, n, d]``.
            team_action (Tensor, optional): a joint critic's value is then of each agent's action
                beside these of the others, one value per agent.

        Returns:
            Tensor: ``[*B]`` of a joint critic, ``[*B, n]`` of independent ones.
        """
        leaf, params = action.detach().requires_grad_(), self.qvalue_network_params.data[:1]
        with torch.enable_grad():
            if team_action is None:
                value = self.qvalues_at(tensordict, leaf, params)[0]
            else:
                own = leaf.unsqueeze(0)
                value = self.own_qvalues_of(tensordict, own, team_action, params, joint=True)[0, 0]
        gradient = torch.autograd.grad(value.sum(), leaf)[0]
        change = ((action - leaf.detach()) * gradient).sum(-1)  # zero, with the gradient
        joint = value.ndim == tensordict.ndim
        return value.detach() + (change.sum(-1) if joint else change)
