"""The critic that follows the policies, the stages, and what the temperature is taken from."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import ACTION, OBSERVATION, join, make_actor, make_data, make_qvalue, make_value
from tensordict.nn import TensorDictModule, TensorDictSequential

from benchmarl_ssd.modules import ConditionalScore, MixtureScore
from benchmarl_ssd.objectives import SsdLoss


def exact_score(noise=0.3, modes=None):
    modes = torch.zeros(1, 3, 2) if modes is None else modes
    return ConditionalScore(MixtureScore(modes, noise), 3, 2, [OBSERVATION])


def learned_score():
    return ConditionalScore.build(3, 2, 12, [OBSERVATION], hidden_sizes=(16,))


def sum_of_actions():
    return TensorDictSequential(
        TensorDictModule(join, in_keys=[ACTION], out_keys=["joint"]),
        TensorDictModule(
            lambda joint: joint.sum(-1, keepdim=True), in_keys=["joint"], out_keys=["worth"]
        ),
        # one parameter, so that there is something to train
        TensorDictModule(torch.nn.Linear(1, 1), in_keys=["worth"], out_keys=["state_action_value"]),
    )


def test_target_is_the_value_of_the_target_policies_next_actions():
    torch.manual_seed(0)
    actor, data = make_actor(), make_data((6,))
    loss = SsdLoss(
        actor, exact_score(), sum_of_actions(), make_value(), policy_noise=0.0, reduction="none"
    )
    loss.make_value_estimator(gamma=0.9)
    with torch.no_grad():
        for parameters, weight in (
            (loss.qvalue_network_params, 0.0),
            (loss.target_qvalue_network_params, 1.0),
        ):
            for name, value in parameters.items(True, True):
                value.fill_(weight if "weight" in name else 0.0)
    action = actor(data["next"].select(OBSERVATION))[ACTION].sum((-2, -1))
    reward = data["next", "agents", "reward"].mean((-2, -1))
    target = reward + 0.9 * action * (~data["next", "terminated"]).squeeze(-1)
    predicted_nothing = 2 * target**2  # two critics, both zero everywhere
    torch.testing.assert_close(loss.policy_qvalue_loss(data)[0], predicted_nothing)


def test_smoothing_noise_is_clipped_and_actions_stay_in_their_bounds():
    torch.manual_seed(0)
    loss = SsdLoss(
        make_actor(),
        exact_score(),
        sum_of_actions(),
        make_value(),
        policy_noise=100.0,
        noise_clip=0.25,
    )
    data, seen = make_data((64,)), []
    qvalues = loss.qvalues

    def watch(read, params):
        seen.append(read[ACTION])
        return qvalues(read, params)

    loss.qvalues = watch
    loss.next_policy_value(data)
    policy = make_actor()  # only for the shape of what follows
    assert seen[0].shape == policy(data["next"].select(OBSERVATION))[ACTION].shape
    chosen = loss.act(loss.actor_network, data["next"])
    assert (seen[0] - chosen).abs().max() <= 0.25 + 1e-6
    assert seen[0].abs().max() <= 1


@pytest.mark.parametrize("score_steps", [1, 2, 3])
@pytest.mark.parametrize("critic", ["following", "frozen"])
def test_stages_train_what_belongs_to_them(critic, score_steps):
    loss = SsdLoss(
        make_actor(),
        learned_score(),
        make_qvalue(),
        make_value(),
        critic=critic,
        score_steps=score_steps,
        critic_from=1,
        pretrain_steps=2,
        extraction_steps=1,
    )
    data = make_data((8,))
    stages = []
    for _ in range(3):
        told, out = set(loss.out_keys), loss(data)
        stages.append({key for key in set(out.keys()) if key.startswith("loss")})
        assert stages[-1] == told
    last = {"loss_actor", "loss_qvalue"} if critic == "following" else {"loss_actor"}
    expected = [{"loss_actor"}, {"loss_qvalue", "loss_value", "loss_actor"}, last]
    for losses in expected[:score_steps]:
        losses.add("loss_score")
    assert stages == expected


def test_a_call_by_keywords_gives_the_losses_of_its_stage():
    stages = {"score_steps": 1, "critic_from": 1, "pretrain_steps": 2, "extraction_steps": 1}
    loss = SsdLoss(make_actor(), learned_score(), make_qvalue(), make_value(), **stages)
    twin, data = copy.deepcopy(loss), make_data((8,))
    entries = {"_".join(key) if isinstance(key, tuple) else key: data[key] for key in loss.in_keys}
    for step in range(3):
        names = loss.out_keys
        torch.manual_seed(step)
        found = loss(**entries)
        torch.manual_seed(step)
        expected = twin(data)
        assert names != list(loss.loss_names)
        for value, name in zip(found, names, strict=True):
            assert torch.equal(value, expected[name])


def test_actors_are_extracted_on_a_share_of_the_batch():
    options = {"pretrain_steps": 0, "critic": "frozen", "beta": 1.0, "normalise_q": False}
    make = lambda **more: SsdLoss(  # noqa: E731
        make_actor(), exact_score(), make_qvalue(), make_value(), **options, **more
    )
    loss, data = make(policy_share=0.25, reduction="none"), make_data((8,))
    found = loss(data)["loss_actor"]
    assert found.shape == (8,)
    assert (found[:2] != 0).all()
    assert (found[2:] == 0).all()
    # The same rows, weighted so that the mean over the batch is their mean.
    whole = make(reduction="none")
    whole.load_state_dict(loss.state_dict())
    loss.step = whole.step = 0
    whole.window = loss.window = lambda progress: (0.1, 0.1)
    torch.manual_seed(3)
    part = loss(data)["loss_actor"]
    torch.manual_seed(3)
    torch.testing.assert_close(part[:2], 4 * whole(data[:2])["loss_actor"])


def test_frozen_critic_never_sees_the_policies():
    loss = SsdLoss(make_actor(), learned_score(), make_qvalue(), make_value(), critic="frozen")
    assert loss.target_actor_network_params is None or not any(
        name.startswith("target_actor") for name, _ in loss.named_parameters()
    )
    data = make_data((8,))
    torch.manual_seed(1)
    before = loss(data)["loss_qvalue"]
    with torch.no_grad():
        for value in loss.actor_network_params.parameters():
            value.add_(1.0)
    torch.manual_seed(1)
    torch.testing.assert_close(loss(data)["loss_qvalue"], before)


@pytest.mark.parametrize("scale", [0.05, 0.2, 0.58])
def test_pairs_of_opposite_noise_leave_a_gaussian_score_without_variance(scale):
    torch.manual_seed(0)
    loss = SsdLoss(
        make_actor(), exact_score(noise=scale), make_qvalue(), make_value(), pretrain_steps=0
    )
    loss.window = lambda progress: (0.1, 0.1)  # one noise level: what is left would be z's
    data, action = make_data((4,)), torch.rand(4, 3, 2) - 0.5
    first, second = (loss._score_gradient(data, action) for _ in range(2))
    torch.testing.assert_close(first, second)
    schedule = loss.score_network.schedule
    alpha, sigma = (f(torch.tensor(0.1)) for f in (schedule.alpha, schedule.sigma))
    exact = alpha * sigma * action / (alpha**2 * scale**2 + sigma**2)
    torch.testing.assert_close(first, exact, rtol=1e-4, atol=1e-5)


def informed(scale, centres):
    """A loss that has seen actions around modes of which its exact scores know."""
    torch.manual_seed(0)
    modes = torch.tensor(centres).view(-1, 1, 1).expand(-1, 3, 2).contiguous()
    loss = SsdLoss(make_actor(), exact_score(scale, modes), make_qvalue(), make_value())
    data = make_data((4000,))
    data[ACTION] = modes[torch.randint(len(modes), (4000,))] + scale * torch.randn(4000, 3, 2)
    loss(data)
    return loss


@pytest.mark.parametrize("scale", [0.05, 0.1, 0.4])
def test_beta_from_data_is_four_over_the_information_of_an_action(scale):
    loss = informed(scale, [0.0])
    nats = math.log(2) - math.log(scale * math.sqrt(2 * math.pi * math.e))
    assert loss.information.item() == pytest.approx(nats, abs=0.03)
    assert loss.temperature == pytest.approx(4 / loss.information.item())


def test_two_narrow_modes_are_narrow():
    one, two = informed(0.05, [0.0]), informed(0.05, [-0.8, 0.8])
    assert two.information.item() == pytest.approx(one.information.item(), abs=0.3)
    assert two.temperature < 4


def test_beta_from_broad_data_trusts_the_critic():
    assert informed(0.6, [0.0]).temperature == pytest.approx(100.0)


def test_beta_warms_up():
    loss = SsdLoss(
        make_actor(),
        exact_score(),
        make_qvalue(),
        make_value(),
        beta=4.0,
        beta_warmup=0.5,
        pretrain_steps=0,
        extraction_steps=8,
    )
    found = []
    for step in (0, 2, 4, 8):
        loss.step = step
        found.append(loss.temperature)
    assert found == [0.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(
    "option",
    [
        {"critic": "live"},
        {"beta_warmup": 2.0},
        {"policy_noise": -1.0},
        {"beta": -1.0},
        {"policy_share": 0.0},
        {"critic_from": -1},
        {"downside": -0.1},
    ],
)
def test_options_out_of_range_are_errors(option):
    with pytest.raises(ValueError, match="expected"):
        SsdLoss(make_actor(), exact_score(), make_qvalue(), make_value(), **option)
