"""Small networks and data for the tests of losses."""

from __future__ import annotations

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.modules import ProbabilisticActor, TanhNormal

from benchmarl_ssd.modules import ConditionalScore, LinearMixer
from benchmarl_ssd.modules.behaviour import BehaviourNetwork

N, OBS, ACT = 3, 4, 2
OBSERVATION = ("agents", "observation")
ACTION = ("agents", "action")


def join(*entries):
    return torch.cat([entry.flatten(-2) for entry in entries], -1)


def make_actor(observation=OBSERVATION, action=ACTION):
    net = nn.Sequential(nn.Linear(OBS, 16), nn.Tanh(), nn.Linear(16, ACT), nn.Tanh())
    return TensorDictModule(net, in_keys=[observation], out_keys=[action])


def make_stochastic_actor(observation=OBSERVATION, action=ACTION):
    net = nn.Sequential(nn.Linear(OBS, 16), nn.Tanh(), nn.Linear(16, 2 * ACT))
    keys = [("agents", "loc"), ("agents", "scale")]
    return ProbabilisticActor(
        TensorDictModule(
            nn.Sequential(net, NormalParamExtractor()), in_keys=[observation], out_keys=keys
        ),
        in_keys=keys,
        out_keys=[action],
        distribution_class=TanhNormal,
    )


def make_qvalue(observation=OBSERVATION, action=ACTION, out="state_action_value"):
    net = nn.Sequential(nn.Linear(N * (OBS + ACT), 16), nn.Tanh(), nn.Linear(16, 1))
    return TensorDictSequential(
        TensorDictModule(join, in_keys=[observation, action], out_keys=["joint"]),
        TensorDictModule(net, in_keys=["joint"], out_keys=[out]),
    )


def make_value(observation=OBSERVATION, out="state_value"):
    net = nn.Sequential(nn.Linear(N * OBS, 16), nn.Tanh(), nn.Linear(16, 1))
    return TensorDictSequential(
        TensorDictModule(join, in_keys=[observation], out_keys=["joint"]),
        TensorDictModule(net, in_keys=["joint"], out_keys=[out]),
    )


class PerAgent(nn.Module):
    """One network per agent, of what that agent observes (and does)."""

    def __init__(self, size):
        super().__init__()
        nets = [nn.Sequential(nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, 1)) for _ in range(N)]
        self.nets = nn.ModuleList(nets)

    def forward(self, *entries):
        rows = torch.cat(entries, -1).unbind(-2)
        return torch.stack([net(row) for net, row in zip(self.nets, rows, strict=True)], -2)


def make_independent_qvalue(observation=OBSERVATION, action=ACTION, out="state_action_value"):
    """Critics of each agent, ``[*B, n, 1]``."""
    return TensorDictModule(PerAgent(OBS + ACT), in_keys=[observation, action], out_keys=[out])


def make_independent_value(observation=OBSERVATION, out="state_value"):
    """State values of each agent, ``[*B, n, 1]``."""
    return TensorDictModule(PerAgent(OBS), in_keys=[observation], out_keys=[out])


def make_score(observation=OBSERVATION, **kwargs):
    return ConditionalScore.build(N, ACT, N * OBS, [observation], hidden_sizes=(16, 16), **kwargs)


def make_data(
    batch=(8,),
    action=ACTION,
    reward=("agents", "reward"),
    done="done",
    terminated="terminated",
    seed=0,
):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(*batch, *shape, generator=generator)

    data = TensorDict({}, batch_size=batch)
    data.set(OBSERVATION, random(N, OBS) - 0.5)
    data.set(action, 2 * random(N, ACT) - 1)
    data.set(("next", *OBSERVATION), random(N, OBS) - 0.5)
    ends = random(1)
    for key, value in (
        (reward, random(N, 1)),
        (done, ends < 0.4),
        (terminated, ends < 0.2),
    ):
        data.set(("next", *(key if isinstance(key, tuple) else (key,))), value)
    return data


def make_mixed_qvalue(observation=OBSERVATION, action=ACTION, out="state_action_value"):
    """Critics of each agent and a mixer of what all observe."""
    local = ("agents", "local_value")
    return TensorDictSequential(
        make_independent_qvalue(observation, action, local),
        LinearMixer(N, N * OBS, [observation], local, out, hidden_sizes=(16,)),
    )


class Of(nn.Module):
    """A known function of the joint action, with one trained offset."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, action):
        return self.function(action) + self.offset


def known(function):
    """A joint critic that is a given function of the joint action, ``[*B, n, d]``."""
    return TensorDictModule(Of(function), [ACTION], ["state_action_value"])


def quadratic(curvature, peak):
    return lambda action: -curvature * ((action - peak) ** 2).sum((-2, -1)).unsqueeze(-1)


def one_agent_data(action, size=1):
    data = make_data((len(action),))
    data[ACTION] = action
    data["agents", "observation"] = torch.zeros(len(action), size, OBS)
    data["next", "agents", "observation"] = torch.zeros(len(action), size, OBS)
    data["next", "agents", "reward"] = torch.zeros(len(action), size, 1)
    return data


def small_actor(size=1):
    net = nn.Sequential(nn.Linear(OBS, size), nn.Tanh())
    return TensorDictModule(net, [OBSERVATION], [ACTION])


def behaviour_network():
    return BehaviourNetwork(N, OBS, ACT, [OBSERVATION], n_components=3, hidden_sizes=(16,))
