"""Critics that are a weighted sum of the agents' own."""

from __future__ import annotations

from collections.abc import Iterable

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictParams
from torch import Tensor
from torchrl.objectives.utils import _vmap_func

from benchmarl_ssd.modules.mixer import LinearMixer
from benchmarl_ssd.objectives.critic import CriticLoss


def mixer_of(qvalue_network: TensorDictModule) -> LinearMixer | None:
    """Return the mixer that a critic ends in, if it is a mixed one."""
    modules = getattr(qvalue_network, "module", None)
    last = list(modules)[-1] if isinstance(modules, Iterable) else None
    return last if isinstance(last, LinearMixer) else None


class MixedCriticLoss(CriticLoss):
    r"""Base of the losses that may look into :math:`Q_{tot} = \sum_i w_i(s) Q_i(o_i, a_i) + b(s)`.

    A *mixed* critic is a ``TensorDictSequential`` of independent critics and, last, a
    :class:`~benchmarl_ssd.modules.mixer.LinearMixer`. To :class:`CriticLoss` it is a joint one, and
    its parts are trained together by the regression of the total.

    Meant to be inherited from: a subclass calls ``_set_up_mixed`` after ``_set_up_qvalue``.
    """

    is_mixed: bool = False

    def _set_up_mixed(self) -> None:
        self.is_mixed = mixer_of(self.qvalue_network) is not None

    def _mixer(self, params: TensorDictParams) -> tuple[LinearMixer, TensorDictParams]:
        mixer = mixer_of(self.qvalue_network)
        assert mixer is not None
        last = len(self.qvalue_network.module) - 1
        return mixer, params.get(("module", str(last)))

    def local_qvalues(self, tensordict: TensorDictBase, params: TensorDictParams) -> Tensor:
        """Every mixed critic's local values of the entries' state and action, ``[N, *B, n]``."""
        mixer, _ = self._mixer(params)
        read = tensordict.select(*self.qvalue_network.in_keys, strict=False)
        return self._vmap_qvalue_network(read, params).get(mixer.value_key).squeeze(-1)

    def weigh(self, tensordict: TensorDictBase, params: TensorDictParams) -> tuple[Tensor, Tensor]:
        """Every mixed critic's weights ``[N, *B, n]`` and biases ``[N, *B]`` in some states."""
        mixer, own = self._mixer(params)
        read = tensordict.select(*mixer.context_keys)
        weigh = _vmap_func(mixer, (None, 0), func="weigh", randomness=self.vmap_randomness)
        return weigh(read, own)
