"""The stages and settings of ssd through BenchMARL's own Experiment."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from runs import make, parameters, summary

from benchmarl_ssd.algorithms.sample_quality import sample_quality
from benchmarl_ssd.data.statistics import downside

pytestmark = pytest.mark.usefixtures("untouched")


@pytest.mark.parametrize("critic", ["following", "frozen"])
def test_stages_switch_and_only_their_networks_move(critic, bandit, bandit_data, tmp_path):
    experiment = make(
        "ssd",
        bandit,
        tmp_path,
        bandit_data,
        critic=critic,
        pretrain_fraction=0.5,
        score_share=0.25,
        critic_share=0.5,
        experiment={"max_n_iters": 4},
    )
    loss, seen, moves = experiment.losses["agents"], [], []
    before = parameters(experiment)
    on_train_end = experiment._on_train_end

    def watch(training_td, group):
        nonlocal before
        seen.append({key for key in training_td.keys(True) if key.startswith("loss")})
        now = parameters(experiment)
        moves.append(
            {
                name.split("_params")[0]
                for name in now
                if "_params" in name and not now[name].equal(before[name])
            }
        )
        before = now
        on_train_end(training_td, group)

    experiment._on_train_end = watch
    experiment.run()
    last = {"loss_actor", "loss_qvalue"} if critic == "following" else {"loss_actor"}
    critics = {"loss_qvalue", "loss_value", "loss_actor"}
    assert seen == [{"loss_score", "loss_actor"}, critics, last, last]
    trained = [{name for name in moved if not name.startswith("target")} for moved in moves]
    networks = {"actor_network", "qvalue_network"} if len(last) == 2 else {"actor_network"}
    # So few steps find no information in actions, and what tells nothing is not cloned.
    trained[1].discard("actor_network")
    assert trained == [
        {"score_network", "actor_network"},
        {"qvalue_network", "value_network"},
        networks,
        networks,
    ]
    assert loss.step == 12
    assert loss.progress == 1.0


def test_learning_rates_follow_their_schedules(bandit, bandit_data, tmp_path):
    experiment = make(
        "ssd",
        bandit,
        tmp_path,
        bandit_data,
        pretrain_fraction=0.5,
        score_share=0.25,
        critic_share=0.5,
        score_lr=0.01,
        actor_lr=0.001,
        experiment={"max_n_iters": 8},
    )
    rates = []
    on_train_step = experiment._on_train_step

    def watch(batch, group):
        optimizers = experiment.optimizers[group]
        rates.append(
            [optimizers[name].param_groups[0]["lr"] for name in ("loss_score", "loss_actor")]
        )
        return on_train_step(batch, group)

    experiment._on_train_step = watch
    experiment.run()
    score, actor = zip(*rates, strict=True)
    assert score[0] == 0.01
    assert list(score) == sorted(score, reverse=True)
    assert score[6] == pytest.approx(0, abs=1e-12)
    # full until 60 % of the extraction, which is steps 12 to 24, then down to nothing
    assert actor[13:19] == pytest.approx((0.001,) * 6)
    assert list(actor[13:]) == sorted(actor[13:], reverse=True)
    assert 0 < actor[-1] < 0.5 * actor[13]


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_actors_go_on_at_the_rate_of_their_clones(schedule, bandit, bandit_data, tmp_path):
    rates = {"actor_lr": 0.001, "clone_lr": 0.004, "lr_schedule": schedule}
    budget = {"max_n_iters": 10}
    experiment = make("ssd", bandit, tmp_path, bandit_data, **rates, experiment=budget)
    algorithm, loss = experiment.algorithm, experiment.losses["agents"]
    found = {}
    for nats in (0.0, 0.5, 3.0):
        loss.information.fill_(nats)
        found[nats] = [algorithm.lr_factor("agents", "loss_actor", step) for step in range(31)]
    assert found[3.0][0] == pytest.approx(4.0)
    assert found[0.5][0] == pytest.approx(2.0)
    assert found[0.0][:12] == [0.0] * 12  # nothing to clone
    assert found[0.0][12] == 1.0
    if schedule == "constant":
        assert found[3.0] == [4.0] * 12 + [1.0] * 19
        return
    assert found[3.0] == sorted(found[3.0], reverse=True)
    assert 1 < found[3.0][12] < 4
    assert found[3.0][-1] == pytest.approx(0.0, abs=1e-12)
    cold = make(
        "ssd", bandit, tmp_path / "cold", bandit_data, warm_start=False, **rates, experiment=budget
    )
    cold.losses["agents"].information.fill_(3.0)
    extraction = [cold.algorithm.lr_factor("agents", "loss_actor", step) for step in range(12, 31)]
    assert extraction == found[0.0][12:]
    experiment.close()
    cold.close()


def test_every_group_is_cloned_as_its_own_actions_tell(bandit, bandit_data, tmp_path):
    """One group of random actions does not keep the others from being cloned."""
    experiment = make("ssd", bandit, tmp_path, bandit_data, experiment={"max_n_iters": 10})
    algorithm, loss = experiment.algorithm, experiment.losses["agents"]
    loss.information.fill_(3.0)
    alone = algorithm.lr_factor("agents", "loss_actor", 0)
    experiment.losses["others"] = SimpleNamespace(information=torch.tensor(0.0))
    assert algorithm.lr_factor("agents", "loss_actor", 0) == alone > 0
    assert algorithm.lr_factor("others", "loss_actor", 0) == 0
    del experiment.losses["others"]
    experiment.close()


def test_windows_are_judged_step_by_step(bandit, bandit_data, tmp_path):
    experiment = make("ssd", bandit, tmp_path, bandit_data)
    loss, batch = experiment.losses["agents"], experiment.replay_buffers["agents"].sample()
    torch.manual_seed(0)
    rows = sample_quality(loss, batch)
    torch.manual_seed(0)
    assert sample_quality(loss, batch.reshape(4, 8)) == rows
    experiment.close()


def test_quality_of_samples_is_logged_until_the_extraction(bandit, bandit_data, tmp_path):
    experiment = make(
        "ssd",
        bandit,
        tmp_path,
        bandit_data,
        experiment={"max_n_iters": 10, "evaluation_interval": 1},
    )
    logged, log = [], experiment.logger.log

    def watch(metrics, step=None):
        logged.append(set(metrics))
        return log(metrics, step=step)

    experiment.logger.log = watch
    experiment.run()
    names = {
        "score/agents/sample_energy",
        "score/agents/unrelated_energy",
        "score/sample_return",
    }
    with_samples = [names <= entry for entry in logged if names & entry]
    assert with_samples == [True] * 4  # the iterations of stage 1


def test_conventions_through_the_runner(bandit, bandit_data, tmp_path):
    experiment = make("ssd", bandit, tmp_path, bandit_data, n_conventions=2)
    experiment.run()
    loss = experiment.losses["agents"]
    assert loss.convention in (0, 1)
    assert loss.convention_share.sum().item() == pytest.approx(1.0, abs=1e-5)


def test_two_iterations_of_every_decomposition_and_order(bandit, bandit_data, tmp_path):
    for index, (decomposition, order) in enumerate(
        [
            ("marginal", "fixed"),
            ("joint", "fixed"),
            ("sequential", "reversed"),
            ("sequential", "random"),
        ]
    ):
        experiment = make(
            "ssd",
            bandit,
            tmp_path / str(index),
            bandit_data,
            decomposition=decomposition,
            order=order,
            experiment={"max_n_iters": 2},
        )
        experiment.run()
        assert summary(experiment)["steps"] == 6


@pytest.mark.parametrize("task_name", ["bandit", "two_apples"])  # one action entry, and two
def test_stochastic_actors_through_the_runner(task_name, request, tmp_path):
    task = request.getfixturevalue(task_name)
    data = request.getfixturevalue(
        {"bandit": "bandit_data", "two_apples": "apples_data"}[task_name]
    )
    experiment = make("ssd", task, tmp_path, data, stochastic_actors=True)
    before = parameters(experiment)
    experiment.run()
    after = parameters(experiment)
    assert summary(experiment)["steps"] > 0
    assert any("actor" in name and not after[name].equal(before[name]) for name in after)
    rollout = experiment.test_env.rollout(2, experiment.policy)
    size = experiment.algorithm.action_spec["agents", "action"].shape[-1]
    for part in ("loc", "scale"):
        assert rollout["agents", part].shape[-1] == size


def test_the_datas_temperature_knows_how_far_rewards_fall(two_apples, apples_data, tmp_path):
    experiment = make("ssd", two_apples, tmp_path, apples_data)
    loss = experiment.losses["agents"]
    rewards = experiment.algorithm.dataset.data["next", "agents", "reward"].mean((-2, -1))
    assert downside(rewards) == pytest.approx(1.0, abs=0.2)  # half of all steps are paid for
    assert loss.downside == pytest.approx(downside(rewards), rel=1e-6)
    loss.information.fill_(1.0)
    assert loss.data_beta == pytest.approx(4 / loss.downside)
