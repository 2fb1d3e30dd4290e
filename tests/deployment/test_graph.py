"""Policies as plain modules decide as BenchMARL's and TorchRL's own do."""

from __future__ import annotations

import pytest
import torch
from benchmarl.algorithms import IqlConfig, MaddpgConfig, MappoConfig, MasacConfig
from benchmarl.models import GruConfig, LstmConfig, SequenceModelConfig
from small_policies import decide, experiment, mlp
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.data import Bounded, Categorical, Composite, OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import (
    Delta,
    IndependentNormal,
    MaskedCategorical,
    MultiAgentConvNet,
    MultiAgentMLP,
    ProbabilisticActor,
    QValueModule,
    TanhDelta,
    TanhNormal,
)

from benchmarl_ssd.algorithms.networks import CentredTanhDelta
from benchmarl_ssd.deployment import ExportError
from benchmarl_ssd.deployment.graph import PolicyGraph, input_specs
from benchmarl_ssd.deployment.heads import Head, make_head
from benchmarl_ssd.deployment.networks import plain_network
from benchmarl_ssd.deployment.verification import TOLERANCE, Reference


def gru(cls=GruConfig):
    config = cls.get_from_yaml()
    config.hidden_size, config.n_layers, config.mlp_num_cells = 16, 2, [16]
    return config


def sequence():
    return SequenceModelConfig(model_configs=[mlp(), mlp()], intermediate_sizes=[5])


def normed():
    return mlp(norm_class=nn.LayerNorm, norm_kwargs={"normalized_shape": 32})


def unsquashed():
    config = MaddpgConfig.get_from_yaml()
    config.use_tanh_mapping = False
    return config


CASES = {
    "maddpg": (MaddpgConfig, mlp(), {"share_policy_params": False}),
    "unsquashed": (unsquashed(), mlp(), {"share_policy_params": False}),
    "shared": (MasacConfig, mlp(), {"share_policy_params": True}),
    "sequence": (MappoConfig, sequence(), {"share_policy_params": False}),
    "norm": (MappoConfig, normed(), {"share_policy_params": False}),
    "discrete values": (IqlConfig, mlp(), {"share_policy_params": False}),
    "discrete": (MappoConfig, mlp(), {"prefer_continuous_actions": False}),
    "gru": (MappoConfig, gru(), {"share_policy_params": False}),
    "shared gru": (MappoConfig, gru(), {"share_policy_params": True}),
    "lstm": (MappoConfig, gru(LstmConfig), {"share_policy_params": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_graph_decides_as_the_policy_does(tmp_path, case):
    algorithm, model, changes = CASES[case]
    run = experiment(tmp_path, algorithm, model=model, **changes)
    specs = input_specs(run, "agents")
    full = {key: torch.randn(7, *spec.shape) for key, (spec, _) in specs.items()}
    data = decide(run, "agents", **{key[1]: value for key, value in full.items()})
    before = [value.clone() for value in run.policy.parameters()]
    for agent in (None, 0, 2):
        graph = PolicyGraph(run, "agents", agent)

        def own(value, agent=agent):
            return value if agent is None else value[:, agent]

        found = graph(*(own(full[port.key]) for port in graph.inputs))
        assert [port.name for port in graph.outputs][1:] == list(graph.states.values())
        for port, value in zip(graph.outputs, found, strict=True):
            expected = own(data[port.key])
            assert value.shape == (7, *port.shape)
            assert value.dtype == port.dtype
            torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
        if agent is not None:  # no other agent's parameters come along
            shared = run.config.share_policy_params
            size = sum(p.numel() for p in graph.parameters())
            every = sum(p.numel() for p in PolicyGraph(run, "agents").parameters())
            assert size == (every if shared else every // 3)
    assert all(map(torch.equal, before, run.policy.parameters()))
    run.close()


@pytest.mark.parametrize("share_params", [True, False])
def test_convolutions(share_params):
    net = MultiAgentConvNet(
        n_agents=2, centralized=False, share_params=share_params, num_cells=[4, 4],
        in_features=3, kernel_sizes=3,
    )  # fmt: skip
    x = torch.randn(5, 2, 3, 8, 8)
    expected = net(x)
    torch.testing.assert_close(plain_network(net)(x), expected)
    torch.testing.assert_close(plain_network(net, agent=1)(x[:, 1:]), expected[:, 1:])


def test_centralised_networks_are_refused():
    net = MultiAgentMLP(4, 2, n_agents=3, centralized=True, share_params=False, depth=1)
    with pytest.raises(ExportError, match="own observations only"):
        plain_network(net)


LOW, HIGH = torch.tensor([[-1.0, 0.0], [-3.0, 2.0]]), torch.tensor([[1.0, 0.5], [5.0, 2.5]])
HEADS = {
    "TanhDelta": (TanhDelta, {"low": LOW, "high": HIGH}, ["param"], False),
    "CentredTanhDelta": (CentredTanhDelta, {"low": LOW, "high": HIGH}, ["param"], False),
    "TanhNormal": (TanhNormal, {"low": LOW, "high": HIGH}, ["loc", "scale"], False),
    "IndependentNormal": (IndependentNormal, {}, ["loc", "scale"], False),
    "Delta": (Delta, {}, ["param"], False),
    "safe Delta": (Delta, {}, ["param"], True),
    "Categorical": (torch.distributions.Categorical, {}, ["logits"], False),
    "MaskedCategorical": (MaskedCategorical, {}, ["logits", "mask"], False),
}


def values(names, discrete):
    shape = (50, 2, 4) if discrete else (50, 2, 2)
    data = TensorDict({("g", name): 2 * torch.randn(shape) for name in names}, [50])
    if "scale" in names:
        data["g", "scale"] = data["g", "scale"].abs() + 0.1
    if "mask" in names:
        data["g", "mask"] = torch.rand(shape) < 0.5
        data["g", "mask"][..., 1] = True
    return data


@pytest.mark.parametrize("kind", HEADS)
def test_heads_decide_as_the_distributions_do(kind):
    distribution, options, names, safe = HEADS[kind]
    discrete = "Categorical" in kind
    spec = Categorical(4, shape=(2,)) if discrete else Bounded(LOW, HIGH)
    actor = ProbabilisticActor(
        module=TensorDictModule(lambda x: x, in_keys=["unused"], out_keys=["unused"]),
        spec=Composite({("g", "action"): spec}),
        in_keys={name: ("g", name) for name in names}, out_keys=[("g", "action")],
        distribution_class=distribution, distribution_kwargs=options, safe=safe,
    )[-1]  # fmt: skip
    data = values(names, discrete)
    for agent in (None, 1):
        part = data.clone() if agent is None else data.apply(lambda x: x[:, 1:2])
        found = Head(*make_head(actor, agent), ("g", "action"))(part.clone())["g", "action"]
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            expected = actor(data.clone())["g", "action"]
        expected = expected if agent is None else expected[:, 1:2]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_action_values_respect_the_mask():
    module = QValueModule(
        action_value_key="values", action_mask_key="mask", out_keys=["action", "values", "best"],
        spec=Categorical(4, shape=(2,)),
    )  # fmt: skip
    data = values(["values", "mask"], discrete=True)["g"]
    found = Head(*make_head(module, None), ("g", "action"))(data.clone())["g", "action"]
    assert torch.equal(found, module(data.clone())["action"])
    assert data["mask"].gather(-1, found.unsqueeze(-1)).all()


def test_one_hot_actions_are_refused():
    module = QValueModule(spec=OneHot(4), action_value_key="values")
    with pytest.raises(ExportError, match="actions as indices"):
        make_head(module, None)


def test_other_distributions_are_refused():
    actor = ProbabilisticActor(
        module=TensorDictModule(lambda x: x, in_keys=["x"], out_keys=["loc"]),
        in_keys=["loc", "scale"], distribution_class=torch.distributions.Laplace,
    )[-1]  # fmt: skip
    with pytest.raises(ExportError, match="found Laplace"):
        make_head(actor, None)
    squeezed = ProbabilisticActor(
        module=TensorDictModule(lambda x: x, in_keys=["x"], out_keys=["loc"]),
        in_keys=["loc", "scale"], distribution_class=TanhNormal,
        distribution_kwargs={"tanh_loc": True},
    )[-1]  # fmt: skip
    with pytest.raises(ExportError, match="TanhNormal with tanh_loc"):
        make_head(squeezed, None)


def test_a_wrong_file_is_told_from_a_right_one(tmp_path):
    run = experiment(tmp_path, MaddpgConfig)
    graph, reference = PolicyGraph(run, "agents"), Reference(run, "agents")
    assert list(reference.samples) == ["random", "environment"]
    assert len(reference.samples["environment"].inputs) == 4 * 6
    for source in reference.samples:
        assert reference.difference(source, graph, lambda x: graph(*x)) < TOLERANCE
        off = reference.difference(source, graph, lambda x: [graph(*x)[0] + 2 * TOLERANCE])
        assert off == pytest.approx(2 * TOLERANCE, rel=0.1)
        nan = reference.difference(source, graph, lambda x: [graph(*x)[0] * float("nan")])
        assert nan == float("inf")
        assert reference.difference(source, graph, lambda x: [graph(*x)[0][..., :1]]) == nan
    run.close()


def test_a_wrong_choice_is_told_from_a_tie(tmp_path):
    run = experiment(tmp_path, IqlConfig)
    graph, reference = PolicyGraph(run, "agents"), Reference(run, "agents")
    assert reference.difference("random", graph, lambda x: graph(*x)) == 0
    other = reference.difference("random", graph, lambda x: [(graph(*x)[0] + 1) % 9])
    assert other > 100 * TOLERANCE
    run.close()


def test_random_policies_are_refused(tmp_path):
    noisy = mlp(activation_class=nn.Dropout, activation_kwargs={"p": 0.5})
    run = experiment(tmp_path, MaddpgConfig, model=noisy)
    with pytest.raises(ExportError, match="at random"):
        Reference(run, "agents")
    run.close()
