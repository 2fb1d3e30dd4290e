"""Fitted Q evaluation against Markov decision processes whose values have a closed form."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torch.nn.functional import one_hot

from benchmarl_ssd.data import DatasetWriter, OfflineDataset
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.evaluation import transitions
from benchmarl_ssd.evaluation.fqe import FqeOptions, fit_fqe, student_quantile
from benchmarl_ssd.evaluation.off_policy import action_distance, estimate, policy_actions
from benchmarl_ssd.evaluation.transitions import TeamTransitions

HORIZON = 5
# Three states in a ring; +1 steps on, -1 stays. What the team is paid, [state, stay or step on]:
REWARD = torch.tensor([[0.0, 1.0], [0.5, -1.0], [2.0, 3.0]])
POLICY = torch.tensor([1, 1, 0])  # step on, step on, stay


def advance(state, move):
    return (state + move) % 3


def exact(start: int, terminal: int | None = None, gamma: float = 1.0, policy=POLICY) -> float:
    """Backward induction: the value of the policy from a state, to the time limit.

    With ``terminal``, stepping on from that state ends the task.
    """
    value = torch.zeros(3)
    for _ in range(HORIZON):
        following = value.clone()
        for state in range(3):
            move = int(policy[state])
            ends = terminal == state and move == 1
            rest = 0.0 if ends else gamma * following[int(advance(state, move))]
            value[state] = REWARD[state, move] + rest
    return value[start].item()


def write_ring(path, episodes=400, terminal=None, cut=0.0, seed=0):
    """Play the ring uniformly at random; a share of the episodes is cut early."""
    random = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(episodes):
        short = bool(torch.rand((), generator=random) < cut) and index > 0
        state, length = index % 3, 2 if short else HORIZON
        moves = torch.randint(2, (length,), generator=random).tolist()
        for step, move in enumerate(moves, start=1):
            after = advance(state, move)
            ended = terminal == state and move == 1
            rows.append((state, move, after, ended, step == length and not ended))
            if ended:
                break
            state = after
    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    with DatasetWriter(path, groups={"agents": ["a", "b"]}, action_bounds=bounds) as writer:
        writer.extend(_transitions(rows))
    return OfflineDataset(path)


def _transitions(rows):
    state, move, after, ended, cut = (torch.tensor(column) for column in zip(*rows, strict=True))
    length = len(rows)

    def shown(which):
        return one_hot(which, 3).float().unsqueeze(1).expand(length, 2, 3)

    # The agents' actions say the move together: its sign is that of their sum. The reward is the
    # team's mean, of which the first agent gets more and the second less.
    action = (2.0 * move - 1).view(-1, 1, 1).expand(length, 2, 1)
    paid = REWARD[state, move].view(-1, 1, 1) + torch.tensor([1.0, -1.0]).view(1, 2, 1)
    return TensorDict(
        {
            "agents": {"observation": shown(state), "action": action},
            "next": {
                "agents": {"observation": shown(after), "reward": paid},
                "terminated": ended.unsqueeze(1),
                "truncated": cut.unsqueeze(1),
            },
        },
        batch_size=[length],
    )


def ring_policy(table=POLICY):
    def act(td):
        state = td["agents", "observation"][..., 0, :].argmax(-1)
        move = 2.0 * table[state] - 1
        return td.set(("agents", "action"), move[..., None, None].expand(*td.shape, 2, 1).clone())

    return act


SMALL = FqeOptions(steps=600, members=2, num_cells=(32, 32), batch_size=128, lr=1e-2)


@pytest.fixture(scope="module")
def ring(tmp_path_factory):
    return write_ring(tmp_path_factory.mktemp("ring") / "data")


class TestClosedForm:
    @pytest.mark.parametrize("gamma", [1.0, 0.8])
    def test_time_limit(self, ring, gamma):
        options = FqeOptions(**{**SMALL.__dict__, "gamma": gamma})
        found = estimate(ring, ring_policy(), options)
        truth = sum(exact(start, gamma=gamma) for start in (0, 1, 2)) / 3
        assert found["fqe_return_estimate"] == pytest.approx(truth, rel=0.02)
        assert found["fqe_horizon"] == HORIZON

    def test_termination_ends_the_return(self, tmp_path):
        dataset = write_ring(tmp_path / "data", terminal=1)
        truth = sum(exact(start, terminal=1) for start in (0, 1, 2)) / 3
        found = estimate(dataset, ring_policy(), SMALL)["fqe_return_estimate"]
        assert found == pytest.approx(truth, abs=0.15)
        endless = sum(exact(start) for start in (0, 1, 2)) / 3
        assert abs(endless - truth) > 1  # so that a wrong treatment would be seen

    def test_a_recording_that_was_cut_goes_on(self, tmp_path):
        dataset = write_ring(tmp_path / "data", episodes=600, cut=0.5)
        truth = sum(exact(start) for start in (0, 1, 2)) / 3
        found = estimate(dataset, ring_policy(), SMALL)["fqe_return_estimate"]
        assert found == pytest.approx(truth, rel=0.03)

    def test_policies_differ_and_the_datas_return_is_another(self, ring):
        for table in (torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])):
            truth = sum(exact(start, policy=table) for start in (0, 1, 2)) / 3
            found = estimate(ring, ring_policy(table), SMALL)["fqe_return_estimate"]
            assert found == pytest.approx(truth, abs=0.15)
            assert abs(found - ring.metadata.episode_return["mean"]) > 0.5


class TestInterval:
    def test_covers(self, tmp_path):
        """A bandit with noisy pay: the interval holds the truth about as often as it says."""
        options = FqeOptions(
            steps=60, members=6, num_cells=(), batch_size=64, lr=0.1, confidence=0.9
        )
        random = torch.Generator().manual_seed(0)
        inside, widths, count, size = 0, [], 20, 60
        for index in range(count):
            seen = torch.randn(size, 1, 1, generator=random)
            action = torch.rand(size, 1, 1, generator=random) * 2 - 1
            noise = torch.randn(size, 1, 1, generator=random)
            ends = torch.ones(size, 1, dtype=torch.bool)
            data = TensorDict(
                {
                    "agents": {"observation": seen, "action": action},
                    "next": {
                        "agents": {"observation": seen, "reward": seen + 2 * action + noise},
                        "terminated": ends,
                        "truncated": torch.zeros_like(ends),
                    },
                },
                batch_size=[size],
            )
            bounds = {"agents": {"low": [[-1.0]], "high": [[1.0]]}}
            path = tmp_path / str(index)
            with DatasetWriter(path, groups={"agents": ["a"]}, action_bounds=bounds) as writer:
                writer.extend(data)
            found = estimate(
                OfflineDataset(path),
                lambda td: td.set(("agents", "action"), torch.full((*td.shape, 1, 1), 0.5)),
                options,
            )
            low, high = found["fqe_interval"]
            inside += low <= 1.0 <= high  # E[x] + 2 * 0.5
            widths.append(high - low)
        assert inside >= 15  # of 20 at a nominal 18; the chance of fewer is about 4 %
        # Not because it is endless: if the pay were known, the mean over 60 initial states would
        # have the standard error 1 / sqrt(60), and an interval of six members the width 0.52.
        assert 0.5 < sum(widths) / count < 2.0

    def test_is_around_the_estimate_and_grows_with_confidence(self, tmp_path):
        dataset = write_ring(tmp_path / "data", episodes=30)
        data = TeamTransitions(dataset)
        first, following = policy_actions(data, ring_policy())
        widths = []
        for confidence in (0.5, 0.95):
            options = FqeOptions(steps=30, members=3, num_cells=(16,), confidence=confidence)
            found = fit_fqe(data, following, first, options)
            low, high = found.interval
            assert (low + high) / 2 == pytest.approx(found.value)
            widths.append(high - low)
        ratio = student_quantile(0.95, 2) / student_quantile(0.5, 2)
        assert widths[1] / widths[0] == pytest.approx(ratio, rel=1e-6)

    @pytest.mark.parametrize(
        ("confidence", "degrees", "quantile"),
        [(0.95, 1, 12.7062), (0.95, 4, 2.7764), (0.9, 9, 1.8331), (0.99, 30, 2.7500)],
    )
    def test_students_quantile(self, confidence, degrees, quantile):
        assert student_quantile(confidence, degrees) == pytest.approx(quantile, rel=1e-3)


class TestFit:
    def test_same_seed_same_estimate_and_random_state_untouched(self, tmp_path):
        dataset = OfflineDataset(write_example(tmp_path / "data"))
        policy = lambda td: td.set(("agents", "action"), torch.zeros(*td.shape, 2, 1))  # noqa: E731
        options = FqeOptions(steps=20, num_cells=(16,))
        torch.manual_seed(0)
        before = torch.get_rng_state()
        one = estimate(dataset, policy, options)
        assert torch.equal(before, torch.get_rng_state())
        torch.manual_seed(1)
        assert estimate(dataset, policy, options) == one
        other = estimate(dataset, policy, FqeOptions(steps=20, num_cells=(16,), seed=1))
        assert other["fqe_return_estimate"] != one["fqe_return_estimate"]

    def test_cannot_leave_what_the_rewards_allow(self, tmp_path):
        """However far off the data: no return beyond H times the best or the worst reward."""
        dataset = write_ring(tmp_path / "data", episodes=30)
        wild = lambda td: td.set(("agents", "action"), torch.full((*td.shape, 2, 1), 1e6))  # noqa: E731
        found = estimate(dataset, wild, FqeOptions(steps=20, num_cells=(16,)))
        assert all(-1 * HORIZON <= member <= 3 * HORIZON for member in found["fqe_members"])

    def test_rows_are_drawn_uniformly_from_whole_episodes(self, tmp_path):
        from benchmarl_ssd.evaluation.fqe import _Fit

        data = TeamTransitions(write_ring(tmp_path / "data", episodes=12, cut=0.5))
        zeros = torch.zeros(len(data.step), 2)
        fit = _Fit(data, zeros, zeros[:12], FqeOptions(members=2, num_cells=(), batch_size=20_000))
        rows = fit._rows()
        for member in range(2):
            drawn = fit.sample[member].bincount(minlength=12)
            share = drawn.repeat_interleave(data.lengths).double()
            counts = rows[member].bincount(minlength=len(data.step)).double()
            torch.testing.assert_close(
                counts / counts.sum(), share / share.sum(), atol=0.01, rtol=0
            )
            assert bool((counts[share == 0] == 0).all())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"steps": 0},
            {"members": 1},
            {"batch_size": 0},
            {"lr": 0.0},
            {"gamma": 1.1},
            {"confidence": 1.0},
            {"warm_up": 1.0},
            {"target_rate": 0.0},
        ],
    )
    def test_options_out_of_range(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            FqeOptions(**wrong)


def test_features_are_standardised_by_all_steps(tmp_path, monkeypatch):
    """Every third row of a team that walks 0, 1, 2 would be of state 0 only."""
    walk = [(0, 1, 1, False, False), (1, 1, 2, False, False), (2, 1, 0, False, True)]
    bounds = {"agents": {"low": -torch.ones(2, 1), "high": torch.ones(2, 1)}}
    path = tmp_path / "data"
    with DatasetWriter(path, groups={"agents": ["a", "b"]}, action_bounds=bounds) as writer:
        writer.extend(_transitions(walk * 600))
    monkeypatch.setattr(transitions, "_STATISTICS_ROWS", 600)
    features = TeamTransitions(OfflineDataset(path)).features(torch.arange(1800))
    torch.testing.assert_close(features.mean(0), torch.zeros(6), atol=0.15, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(6), atol=0.1, rtol=0)


class TestPolicyActions:
    def test_along_episodes_a_memory_sees_only_its_own_past(self, tmp_path):
        """A policy with memory acts on whole episodes at once as it does step by step."""
        data = TeamTransitions(write_ring(tmp_path / "data", episodes=20, cut=0.5))

        def remembering(td):
            assert td["is_init"][:, 0].all()
            assert not td["is_init"][:, 1:].any()
            seen = td["agents", "observation"] * torch.tensor([1.0, 2.0, 3.0])
            return td.set(("agents", "action"), seen.sum(-1, True).cumsum(1) / 20)

        first, following = policy_actions(data, remembering, recurrent=True)
        weights = torch.tensor([1.0, 2.0, 3.0])
        for episode, (start, length) in enumerate(zip(data.starts, data.lengths, strict=True)):
            rows = torch.arange(int(start), int(start + length))
            seen = data.observations(rows)["agents", "observation"]
            last = data.observations(rows[-1:], following=True)["agents", "observation"]
            memory = (torch.cat([seen, last]) * weights).sum(-1).cumsum(0) / 20
            torch.testing.assert_close(first[episode], memory[0])
            torch.testing.assert_close(following[rows], memory[1:])

    def test_without_memory_both_ways_agree(self, tmp_path):
        data = TeamTransitions(write_ring(tmp_path / "data", episodes=20, cut=0.5))
        flat = policy_actions(data, ring_policy())
        along = policy_actions(data, ring_policy(), recurrent=True)
        assert all(torch.equal(one, two) for one, two in zip(flat, along, strict=True))


class TestActionDistance:
    def test_of_a_known_shift(self, tmp_path):
        dataset = OfflineDataset(write_example(tmp_path / "data"))
        logged = dataset.data["agents", "action"]
        shifted = lambda td: td.set(("agents", "action"), logged + 0.25)  # noqa: E731
        found = action_distance(TeamTransitions(dataset), shifted)
        assert found["action_distance"] == pytest.approx(0.25, rel=1e-5)
        spread = (logged - logged.mean(0)).square().mean().sqrt().item()
        assert found["action_distance_of_mean"] == pytest.approx(spread, rel=1e-5)

    def test_is_in_units_of_the_bounds(self, tmp_path):
        bounds = {"agents": {"low": [[-2.0]], "high": [[6.0]]}}
        ends = torch.tensor([[False], [True]])
        with DatasetWriter(
            tmp_path / "data", groups={"agents": ["a"]}, action_bounds=bounds
        ) as writer:
            writer.extend(
                TensorDict(
                    {
                        "agents": {
                            "observation": torch.zeros(2, 1, 1),
                            "action": torch.tensor([[[-2.0]], [[6.0]]]),
                        },
                        "next": {
                            "agents": {
                                "observation": torch.zeros(2, 1, 1),
                                "reward": torch.zeros(2, 1, 1),
                            },
                            "terminated": torch.zeros_like(ends),
                            "truncated": ends,
                        },
                    },
                    batch_size=[2],
                )
            )
        middle = lambda td: td.set(("agents", "action"), torch.full((*td.shape, 1, 1), 2.0))  # noqa: E731
        data = TeamTransitions(OfflineDataset(tmp_path / "data"))
        assert action_distance(data, middle)["action_distance"] == pytest.approx(1.0)
        assert math.isclose(data.actions(torch.tensor([1])).item(), 1.0)
