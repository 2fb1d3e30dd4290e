"""What every loss of this package must pass; each loss's tests inherit it."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import make_data
from tensordict import TensorDict
from tensordict.nn import TensorDictParams
from tensordict.utils import unravel_key
from torchrl.objectives import SoftUpdate

DEFAULT_KEYS = {
    "action": ("agents", "action"),
    "reward": ("agents", "reward"),
    "done": "done",
    "terminated": "terminated",
    "value": "state_value",
    "state_action_value": "state_action_value",
}
OTHER_KEYS = {
    "action": ("agents", "nested", "move"),
    "reward": ("agents", "gain"),
    "done": "over",
    "terminated": "finished",
    "value": "worth",
    "state_action_value": "act_worth",
}
DATA_KEYS = ("action", "reward", "done", "terminated")


class LossTests:
    """Inherit, and define ``make_loss`` and ``trains``."""

    # Which network each loss may send gradients to.
    trains: dict[str, str]
    has_targets = False

    def make_loss(self, reduction="mean", keys=DEFAULT_KEYS):
        raise NotImplementedError

    # -- helpers ------------------------------------------------------------------------------

    def ready(self, reduction="mean", keys=DEFAULT_KEYS):
        torch.manual_seed(0)
        loss = self.make_loss(reduction=reduction, keys=keys)
        loss.set_keys(**keys)
        if self.has_targets:
            SoftUpdate(loss, tau=0.5)
        return loss

    @staticmethod
    def data(batch=(8,), keys=DEFAULT_KEYS):
        return make_data(batch, **{key: keys[key] for key in DATA_KEYS})

    @staticmethod
    def seeded(loss, data):
        torch.manual_seed(1)
        return loss(data)

    def losses(self, out):
        return {key: out.get(key) for key in self.trains}

    # -- tests --------------------------------------------------------------------------------

    def test_unknown_key_is_an_error(self):
        with pytest.raises(ValueError, match="not an accepted tensordict key"):
            self.ready().set_keys(no_such_key="x")

    @pytest.mark.parametrize("renamed", [*DEFAULT_KEYS, "all"])
    def test_keys_can_be_set_alone_and_together(self, renamed):
        names = list(DEFAULT_KEYS) if renamed == "all" else [renamed]
        keys = {**DEFAULT_KEYS, **{name: OTHER_KEYS[name] for name in names}}
        default = self.seeded(self.ready(), self.data())
        out = self.seeded(self.ready(keys=keys), self.data(keys=keys))
        for name in self.trains:
            torch.testing.assert_close(out[name], default[name])

    def test_in_keys_are_what_is_read(self):
        loss, data = self.ready(), self.data()
        reads = data.select(*loss.in_keys)
        assert set(self.losses(self.seeded(loss, reads)))
        for key in loss.in_keys:
            with pytest.raises((KeyError, AttributeError, TypeError)):
                self.seeded(loss, data.exclude(key))

    def test_inputs_are_left_unchanged(self):
        loss, data = self.ready(), self.data()
        before = data.clone()
        self.seeded(loss, data)
        assert set(data.keys(True, True)) == set(before.keys(True, True))
        assert (data == before).all()

    def test_each_loss_trains_its_own_network_only(self):
        loss = self.ready()
        out = self.seeded(loss, self.data())
        for name, network in self.trains.items():
            loss.zero_grad()
            out.get(name).backward(retain_graph=True)
            touched = {
                parameter_name.split("_params")[0]
                for parameter_name, parameter in loss.named_parameters()
                if parameter.grad is not None and parameter.grad.abs().sum() > 0
            }
            assert touched == {network}, name

    def test_targets_have_no_gradient(self):
        loss = self.ready()
        for name, module in loss.named_children():
            if name.startswith("target_"):
                assert isinstance(module, TensorDictParams)
                assert not any(value.requires_grad for value in module.values(True, True))

    def test_no_backward_through_one_loss_disturbs_another(self):
        # BenchMARL steps one loss's optimiser before the next loss runs backward.
        loss = self.ready()
        out = self.seeded(loss, self.data())
        for name, network in self.trains.items():
            out.get(name).backward()
            params = getattr(loss, f"{network}_params")
            with torch.no_grad():
                for parameter in params.values(True, True):
                    parameter.add_(1.0)

    def test_deepcopy_and_state_dict_carry_the_loss(self):
        loss, data = self.ready(), self.data()
        twin = copy.deepcopy(loss)
        torch.manual_seed(5)
        other = self.make_loss()
        other.load_state_dict(loss.state_dict())
        expected = self.seeded(loss, data)
        for clone in (twin, other):
            out = self.seeded(clone, data)
            for name in self.trains:
                torch.testing.assert_close(out[name], expected[name])

    def test_state_dict_needs_no_code_to_load(self, tmp_path):
        loss = self.ready()
        torch.save(loss.state_dict(), tmp_path / "loss.pt")
        loaded = torch.load(tmp_path / "loss.pt", weights_only=True)
        loss.load_state_dict(loaded)

    def test_reductions_agree(self):
        batch, seen = (8,), {}
        for reduction in ("none", "mean", "sum"):
            out = self.seeded(self.ready(reduction=reduction), self.data(batch))
            seen[reduction] = self.losses(out)
        for name in self.trains:
            assert seen["none"][name].shape == batch
            torch.testing.assert_close(seen["none"][name].mean(), seen["mean"][name])
            torch.testing.assert_close(seen["none"][name].sum(), seen["sum"][name])

    def test_unknown_reduction_is_an_error(self):
        with pytest.raises(ValueError, match="expected reduction to be one of"):
            self.make_loss(reduction="median")

    def test_keyword_call_equals_tensordict_call(self):
        loss, data = self.ready(), self.data()
        kwargs = {
            "_".join(key) if isinstance(key, tuple) else key: data.get(key) for key in loss.in_keys
        }
        expected = self.losses(self.seeded(copy.deepcopy(loss), data))
        names = loss.out_keys
        torch.manual_seed(1)
        out = loss(**kwargs)
        out = out if isinstance(out, tuple) else (out,)
        for value, name in zip(out, names, strict=True):
            torch.testing.assert_close(value, expected[name])

    def test_reset_parameters_changes_every_network(self):
        loss = self.ready()
        before = {name: value.clone() for name, value in loss.named_parameters()}
        torch.manual_seed(9)
        loss.reset_parameters_recursive()
        changed = {
            name.split("_params")[0]
            for name, value in loss.named_parameters()
            if not torch.equal(value, before[name])
        }
        assert changed == set(self.trains.values())

    @pytest.mark.parametrize("batch", [(), (8,), (2, 3)])
    def test_batch_layouts(self, batch):
        out = self.seeded(self.ready(reduction="none"), self.data(batch))
        for name in self.trains:
            assert out[name].shape == batch
        assert isinstance(out, TensorDict)

    def test_layout_of_the_batch_does_not_matter(self):
        # Without noise a batch of [2, 3] must give what its six rows give.
        data = self.data((2, 3))
        for name in self.deterministic:
            flat = self.seeded(self.ready(reduction="none"), data.reshape(6))[name]
            square = self.seeded(self.ready(reduction="none"), data)[name]
            torch.testing.assert_close(square.reshape(6), flat)

    deterministic: tuple[str, ...] = ()

    def test_same_seed_same_loss(self):
        first, second = (self.seeded(self.ready(), self.data()) for _ in range(2))
        for name in self.trains:
            assert torch.equal(first[name], second[name])

    def test_in_keys_are_unravelled(self):
        assert all(key == unravel_key(key) for key in self.ready().in_keys)
