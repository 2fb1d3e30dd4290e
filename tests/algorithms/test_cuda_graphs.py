"""What of recorded steps can be seen without a GPU; `test_gpu.py` has the rest."""

from __future__ import annotations

import copy

import benchmarl.algorithms.common as benchmarl_common
import pytest
import torch
from runs import ALGORITHMS, KINDS, make, parameters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarl_ssd.algorithms import cuda_graphs
from benchmarl_ssd.algorithms.errors import OfflineRunError
from benchmarl_ssd.modules import ActionScaler
from benchmarl_ssd.objectives import extraction, ssd

SETTINGS = [
    ("ssd", {"decomposition": "marginal"}),
    ("ssd", {"decomposition": "joint"}),
    ("ssd", {"critics": "independent"}),
    ("ssd", {"critic": "frozen"}),
    ("matd3bc", {"critics": "independent"}),
    ("cfcql", {"critics": "joint"}),
]
CASES = [*((name, {}) for name in ALGORITHMS), *SETTINGS]


class NothingWaits(TorchDispatchMode):
    """Fails where a value is looked at, or copied between devices, for which a host waits."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        name = operation.name()
        assert "_local_scalar_dense" not in name, name
        assert "nonzero" not in name, name
        if "copy" in name:
            tensors = (t for t in tree_leaves((args, found)) if isinstance(t, torch.Tensor))
            assert len({tensor.device.type for tensor in tensors}) == 1, name
        return found


@pytest.fixture
def meta_device(monkeypatch):
    """Lets networks be built on the device without values, where nobody can look at one."""
    look = torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda x: 0.0 if x.is_meta else look(x))
    monkeypatch.setattr(ActionScaler, "trivial", True)
    monkeypatch.setattr(benchmarl_common, "SoftUpdate", lambda *args, **kwargs: None)


@pytest.mark.parametrize(
    ("name", "more", "stage"),
    [(name, more, stage) for name, more in CASES for stage in ([1, 2] if name == "ssd" else [1])],
    ids=str,
)
def test_no_loss_waits_for_its_device(
    name, more, stage, two_apples, apples_data, tmp_path, meta_device, monkeypatch
):
    experiment = make(
        name, two_apples, tmp_path, apples_data, experiment={"train_device": "meta"}, **more
    )
    loss = experiment.losses["agents"]
    if name == "ssd":
        loss.step = loss.pretrain_steps if stage == 2 else 0
        # A recording reads what the host said before.
        monkeypatch.setattr(extraction, "is_recorded", lambda: True)
        monkeypatch.setattr(ssd, "is_recorded", lambda: True)
    batch = experiment.replay_buffers["agents"].sample().to("meta")
    loss(batch)  # what is moved once is
    with NothingWaits():
        found = loss(batch)
    assert found.keys()
    assert all(value.is_meta for value in found.values())


@pytest.mark.parametrize("more", [{}, {"beta": 2.0, "beta_warmup": 0.5}], ids=str)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_recorded_call_of_ssd_is_the_same_call(
    stage, more, two_apples, apples_data, tmp_path, monkeypatch
):
    experiment = make("ssd", two_apples, tmp_path, apples_data, **more)
    loss, batch = experiment.losses["agents"], experiment.replay_buffers["agents"].sample()
    loss.information.fill_(0.7)
    step = loss.pretrain_steps + 2 if stage == 2 else 1
    loss.step = step
    torch.manual_seed(0)
    expected = loss(batch)
    assert loss.step == step + 1
    loss.step = step
    loss.begin_call()
    monkeypatch.setattr(extraction, "is_recorded", lambda: True)
    monkeypatch.setattr(ssd, "is_recorded", lambda: True)
    loss.step = 0 if stage == 1 else loss.pretrain_steps  # what a recording does not see
    torch.manual_seed(0)
    found = loss(batch)
    for name in loss.out_keys:
        torch.testing.assert_close(found[name], expected[name])
    loss.step = step
    loss.end_call()
    assert loss.step == step + 1


@pytest.mark.parametrize("name", ["matd3bc", "ssd"])
def test_keys_tell_calls_apart(name, two_apples, apples_data, tmp_path):
    loss = make(name, two_apples, tmp_path, apples_data).losses["agents"]
    hash(loss.call_key())
    if name != "ssd":
        assert loss.call_key() == ()
        return
    keys = []
    for loss.step in range(12):
        keys.append(loss.call_key())
    assert keys[1] == keys[2]
    assert keys[0] != keys[1]  # a look at the information
    assert keys[loss.pretrain_steps] != keys[loss.pretrain_steps - 1]


def test_nothing_is_recorded_of_several_conventions(two_apples, apples_data, tmp_path):
    experiment = make("ssd", two_apples, tmp_path, apples_data, n_conventions=2)
    assert experiment.losses["agents"].call_key() is None


@pytest.mark.parametrize(
    "clip", [{"clip_grad_norm": True, "clip_grad_val": 0.01}, {"clip_grad_norm": False}], ids=str
)
@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_benchmarls(name, clip, two_apples, apples_data, tmp_path):
    experiment = make(name, two_apples, tmp_path, apples_data, experiment=clip)
    experiment._on_train_step = lambda *args: None  # rates stay
    start = copy.deepcopy(experiment.losses["agents"].state_dict())
    found = []
    for step in (experiment._optimizer_loop, lambda group: _step(experiment, group)):
        experiment.losses["agents"].load_state_dict(copy.deepcopy(start))
        for optimizer in experiment.optimizers["agents"].values():
            optimizer.state.clear()
        torch.manual_seed(0)
        logged = [step("agents") for _ in range(3)][-1]
        found.append((parameters(experiment), {k: v.item() for k, v in logged.items()}))
    (expected, metrics), (after, same) = found
    assert same == pytest.approx(metrics)
    assert any(not torch.equal(value, start[key]) for key, value in after.items())
    for key, value in expected.items():
        torch.testing.assert_close(after[key], value)


def _step(experiment, group):
    batch = experiment.replay_buffers[group].sample()
    return cuda_graphs.optimiser_step(experiment, group, batch)


def test_rates_are_set_where_they_are_kept_and_saved_as_numbers():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], lr=0.5)
    weight.sum().backward()
    optimizer.step()
    (part,) = optimizer.param_groups
    cuda_graphs.set_rate(part, 0.25)
    assert part["lr"] == 0.25
    plain = optimizer.state_dict()
    cuda_graphs.make_capturable(optimizer)
    kept = part["lr"]
    cuda_graphs.set_rate(part, 0.125)
    assert part["lr"] is kept
    assert kept.item() == 0.125
    state = cuda_graphs.portable(optimizer.state_dict())
    assert state["param_groups"][0] == {**plain["param_groups"][0], "lr": 0.125}
    again = torch.optim.Adam([weight], lr=0.5)
    again.load_state_dict(state)
    again.step()
    assert not isinstance(again.param_groups[0]["lr"], torch.Tensor)


def test_a_rehearsal_on_the_stand_in_leaves_no_graph_behind(two_apples, apples_data, tmp_path):
    # Nodes that outlive a step belong to the stream they were made on, where nothing is recorded.
    experiment = make("matd3bc", two_apples, tmp_path, apples_data)
    weights = [p for p in experiment.losses["agents"].parameters() if p.requires_grad]

    def accumulator(weight):
        return weight.view_as(weight).grad_fn.next_functions[0][0]

    seen, step = [], experiment._optimizer_loop

    def watched(group):
        seen.append(sum("seen" in accumulator(weight).metadata for weight in weights))
        found = step(group)
        for weight in weights:
            accumulator(weight).metadata["seen"] = True
        return found

    experiment._optimizer_loop = watched
    experiment.run()
    assert len(seen) == 12
    assert not any(seen)


def test_graphs_want_a_gpu(two_apples, apples_data, tmp_path):
    with pytest.raises(OfflineRunError, match="train_device=cuda"):
        make("bc", two_apples, tmp_path / "a", apples_data, cuda_graphs=True)
    assert not list((tmp_path / "a").iterdir())
    with pytest.raises(OfflineRunError, match="stochastic_actors=false"):
        make(
            "ssd",
            two_apples,
            tmp_path / "c",
            apples_data,
            cuda_graphs=True,
            stochastic_actors=True,
        )
    with pytest.raises(OfflineRunError, match="soft target updates"):
        make(
            "matd3bc",
            two_apples,
            tmp_path / "b",
            apples_data,
            cuda_graphs=True,
            experiment={"soft_target_update": False},
        )
