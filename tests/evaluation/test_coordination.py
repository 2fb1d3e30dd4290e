"""The coordination of datasets whose truth is known."""

from __future__ import annotations

import json
import math
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from benchmarl_ssd.cli import main
from benchmarl_ssd.data import DatasetError, DatasetWriter, OfflineDataset, build
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.evaluation.coordination import coordination
from benchmarl_ssd.evaluation.coordination_report import Coordination, Estimate, Phase


def write(path: Path, observation: torch.Tensor, action: torch.Tensor) -> Path:
    """Write episodes ``[E, L, n, size]``."""
    episodes, length, n, size = action.shape
    truncated = torch.zeros(episodes, length, 1, dtype=torch.bool)
    truncated[:, -1] = True
    data = TensorDict(
        {
            ("agents", "observation"): observation,
            ("agents", "action"): action,
            ("next", "agents", "observation"): observation,
            ("next", "agents", "reward"): torch.zeros(episodes, length, n, 1),
            ("next", "terminated"): torch.zeros_like(truncated),
            ("next", "truncated"): truncated,
        },
        [episodes, length],
    )
    bounds = {"low": -torch.ones(n, size), "high": torch.ones(n, size)}
    groups = {"agents": [f"agent_{i}" for i in range(n)]}
    with DatasetWriter(path, groups=groups, action_bounds={"agents": bounds}) as writer:
        writer.extend(data.flatten())
    return path


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ------------------------------------------------------------------------------- joint modes


def check_bandit(root: Path, n: int, k: int, iterations: int | None) -> None:
    config = {"n_agents": n, "n_modes": k}
    path = build("coordination/bandit/modes", root, progress=False, config=config)
    [found] = coordination(path, iterations=iterations)
    truth = (n - 1) * math.log(k)
    assert found.information.nats == pytest.approx(truth, rel=0.05)
    assert found.denoising.nats == pytest.approx(truth, rel=0.1)
    assert found.by_agent == pytest.approx([0.0] + [math.log(k)] * (n - 1), rel=0.1)
    assert found.information.low <= found.information.nats <= found.information.high
    assert found.information.high - found.information.low < 0.05 * truth
    assert found.verdict == "coordinated"
    assert "marginal methods will combine" in found.words()
    # 1 - K^(1-n) is the total variation between the team and its marginals
    assert 1 - k ** (1 - n) <= found.most_lost <= 1
    assert found.held_out_episodes == 4000


@pytest.mark.parametrize(("n", "k"), [(2, 2), (3, 2)])
def test_joint_modes_share_the_log_of_their_number(tmp_path, n, k):
    check_bandit(tmp_path, n, k, iterations=300)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(8, 2), (3, 4)])
def test_many_agents_and_modes(tmp_path, n, k):
    check_bandit(tmp_path, n, k, iterations=None)


# ------------------------------------------------------------------ agents that see something


def test_agents_that_only_share_what_they_see_are_independent(tmp_path, generator):
    # each agent's action follows the other's observation, too: nothing is left given both
    seen = torch.rand(2000, 2, 2, 1, generator=generator) * 2 - 1
    action = 0.4 * seen + 0.3 * seen.flip(2)
    action = action + 0.2 * torch.randn(action.shape, generator=generator)
    [found] = coordination(write(tmp_path / "d", seen, action.clamp(-1, 1)), iterations=400)
    assert abs(found.information.nats) < 0.03
    assert abs(found.denoising.nats) < 0.05
    assert found.verdict == "independent"
    assert "marginal methods will do" in found.words()
    assert found.most_lost < 0.2


def test_noise_in_common_is_what_the_resolution_leaves_of_it(tmp_path, generator):
    seen = torch.rand(8000, 1, 2, 1, generator=generator) * 2 - 1
    first, second = torch.randn(2, 8000, 1, 1, 1, generator=generator) * 0.15
    noise = torch.cat([first, 0.8 * first + 0.6 * second], 2)  # correlation 0.8
    path = write(tmp_path / "d", seen, 0.3 * seen + noise)
    [found] = coordination(path, iterations=400)
    # the second action, noised, has variance 0.15^2 + 0.01, of which 0.64 * 0.15^2 is the first's
    expected = -0.5 * math.log(1 - 0.64 * 0.0225 / 0.0325)
    assert found.information.nats == pytest.approx(expected, rel=0.1)
    assert found.denoising.nats == pytest.approx(expected, rel=0.15)
    [finer] = coordination(path, iterations=400, resolution=0.02)
    expected = -0.5 * math.log(1 - 0.64 * 0.0225 / 0.0229)
    assert finer.information.nats == pytest.approx(expected, rel=0.1)


def test_a_convention_that_shows_after_the_first_step_is_found_there(tmp_path, generator):
    convention = (torch.randint(2, (3000, 1, 1, 1), generator=generator) * 2 - 1).float()
    action = 0.5 * convention + 0.1 * torch.randn(3000, 4, 2, 1, generator=generator)
    seen = torch.cat([torch.zeros(3000, 1, 2, 1), action[:, :-1]], 1)
    [found] = coordination(write(tmp_path / "d", seen, action.clamp(-1, 1)), iterations=400)
    assert [(phase.first, phase.last) for phase in found.phases] == [(1, 1), (2, 3), (4, 4)]
    assert [phase.share for phase in found.phases] == pytest.approx([0.25, 0.5, 0.25])
    first, *later = (phase.information.nats for phase in found.phases)
    assert first == pytest.approx(math.log(2), rel=0.1)
    assert max(map(abs, later)) < 0.05
    assert found.information.nats == pytest.approx(math.log(2) / 4, rel=0.2)
    assert found.peak is found.phases[0]
    assert "belong together in step 1:" in found.words()
    assert "steps 2 to 3" in str(found)


def test_equal_seeds_equal_results(tmp_path):
    path = build("coordination/bandit/modes", tmp_path, 1000, progress=False)
    before = torch.get_rng_state()
    first, again, other = (
        coordination(OfflineDataset(path), iterations=20, seed=s)[0].to_dict() for s in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


# --------------------------------------------------------------------------- simulated teams


@pytest.mark.slow
def test_teams_that_walk(tmp_path):
    path = build("coordination/two_apples/coin-flip", tmp_path, progress=False)
    [found] = coordination(path, iterations=2000)
    assert found.phases[0].information.nats == pytest.approx(3 * math.log(2), rel=0.1)
    assert max(abs(phase.information.nats) for phase in found.phases[2:]) < 0.1
    for kind, verdict in (("random", "independent"), ("mixed", "coordinated")):
        path = build(f"mpe/cooperative_navigation/{kind}", tmp_path, 200_000, progress=False)
        [found] = coordination(path)
        assert found.verdict == verdict
        assert (found.peak.first == 1) == (kind == "mixed") or kind == "random"


# ------------------------------------------------------------------------------- what is said


def report(low: float, high: float) -> Coordination:
    estimate = Estimate((low + high) / 2, low, high)
    return Coordination("team", 2, estimate, estimate, [], [Phase(1, 1, 1.0, estimate)], 0.1, 9)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "words"),
    [
        (-0.01, 0.02, "independent", "marginal methods will do"),
        (0.1, 0.3, "undecided", "compare algorithm.decomposition=marginal"),
        (0.6, 0.7, "coordinated", "Take algorithm=ssd"),
    ],
)
def test_verdicts(low, high, verdict, words):
    found = report(low, high)
    assert found.verdict == found.to_dict()["verdict"] == verdict
    assert words in found.words()
    assert words in str(found)


def test_the_bound_on_what_is_lost():
    assert report(-0.2, -0.1).most_lost == 0
    assert report(0, 0.02).most_lost == pytest.approx(0.1)  # Pinsker's
    assert report(4, 5).most_lost == pytest.approx(math.sqrt(1 - math.exp(-5)))


def test_what_cannot_be_estimated(tmp_path):
    with pytest.raises(DatasetError, match=r"at least 20 episodes .* found 4"):
        coordination(write_example(tmp_path / "few"))
    with pytest.raises(DatasetError, match=r"two agents or more, found agents of 1"):
        coordination(write_example(tmp_path / "one", agents=1, episodes=30))
    with pytest.raises(DatasetError, match=r"found agents of 2; asked for enemies"):
        coordination(write_example(tmp_path / "none", episodes=30), group="enemies")
    with pytest.raises(ValueError, match="resolution"):
        coordination(write_example(tmp_path / "fine", episodes=30), resolution=0.0)


# ------------------------------------------------------------------------------ the command line


def test_describe_says_it(tmp_path, capsys, monkeypatch):
    estimate = partial(coordination, iterations=30)
    monkeypatch.setattr("benchmarl_ssd.evaluation.coordination.coordination", estimate)
    path = build("coordination/bandit/modes", tmp_path, 1000, progress=False)
    handler = signal.getsignal(signal.SIGTERM)
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main(["describe", str(path), "--coordination", *extra])
        assert not caught.value.code
    signal.signal(signal.SIGTERM, handler)
    text, _, content = capsys.readouterr().out.partition("\n{")
    assert "\nCOORDINATION\n  agents: " in text
    [found] = json.loads("{" + content)["coordination"]
    assert found["group"] == "agents"
    assert f"{found['information']['nats']:.3f} nats in the mean" in text
    assert found["words"] in text
