"""What `export-policy` writes, run as its users will: with onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from benchmarl.algorithms import IqlConfig, MaddpgConfig, MappoConfig
from benchmarl.experiment import Experiment
from benchmarl.models import GruConfig
from runs import make
from small_policies import decide, experiment, mlp, tag
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.cli import main
from benchmarl_ssd.cli.export_policy import describe
from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.recipes import build
from benchmarl_ssd.deployment import (
    ExportedPolicy,
    ExportError,
    export_policy,
    formats,
    read_metadata,
)
from benchmarl_ssd.deployment import export as exporting
from benchmarl_ssd.environments import CoordinationTask

ACT = Path(__file__).parents[2] / "examples" / "deployment" / "act.py"


@pytest.fixture(scope="module")
def ssd_run(tmp_path_factory):
    """A dataset, and the checkpoint of a small run on it."""
    root = tmp_path_factory.mktemp("ssd")
    dataset = build("coordination/bandit/modes", root=root, transitions=2000, progress=False)
    task = CoordinationTask.BANDIT.get_from_yaml()
    run = make("ssd", task, root / "runs", dataset, experiment={"checkpoint_at_end": True})
    run.run()
    return dataset, next(run.folder_name.rglob("*.pt"))


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """Two groups, each agent a network of its own, actions in [0, 1]; as it is untrained."""
    run = experiment(tmp_path_factory.mktemp("tag"), MaddpgConfig, tag(), share_policy_params=False)
    yield run
    run.close()


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(["export-policy", *map(str, arguments)])
    captured = capsys.readouterr()
    return caught.value.code or 0, captured.out, captured.err


def decisions(path, **inputs):
    if path.suffix == ".pt2":
        (action,) = torch.export.load(path).module()(*inputs.values())
        return {"action": action.numpy()}
    session = onnxruntime.InferenceSession(path)
    outputs = [each.name for each in session.get_outputs()]
    feed = {name: np.asarray(value) for name, value in inputs.items()}
    return dict(zip(outputs, session.run(None, feed), strict=True))


def test_a_checkpoint_becomes_a_file_that_decides_the_same(ssd_run, tmp_path, capsys):
    dataset, checkpoint = ssd_run
    before = sorted(checkpoint.parent.parent.rglob("*"))
    out = tmp_path / "new" / "policy.onnx"
    code, said, error = command(capsys, checkpoint, "--out", out)
    assert code == 0, error
    assert list(out.parent.iterdir()) == [out]
    assert sorted(checkpoint.parent.parent.rglob("*")) == before
    assert "observation [batch, 2, 2] -> action [batch, 2, 1]" in said
    assert "1,000 random" in said
    assert "1,000 dataset observations" in said
    run = Experiment.reload_from_file(str(checkpoint), {"save_folder": str(tmp_path)})
    logged = OfflineDataset(dataset).data["agents", "observation"]
    for observation in (logged, logged[:1], torch.randn(7, 2, 2)):
        expected = decide(run, "agents", observation=observation)["agents", "action"]
        found = decisions(out, observation=observation)["action"]
        assert np.abs(found - expected.numpy()).max() < 1e-5
    about = read_metadata(out)
    assert about["algorithm"] == "ssd"
    assert about["task"]["name"] == "bandit"
    assert about["agents"] == run.group_map["agents"]
    assert about["trained_frames"] == run.total_frames
    assert about["source"] == {"checkpoint": checkpoint.name}
    assert about["versions"]["benchmarl_ssd"]
    (action,) = about["outputs"]
    assert (action["low"], action["high"]) == ([[-1.0], [-1.0]], [[1.0], [1.0]])
    run.close()
    # The same decision where there is neither PyTorch nor this package.
    alone = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]); "
        "assert not {'torch', 'benchmarl', 'benchmarl_ssd'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", alone, ACT, out], capture_output=True, text=True, check=True
    )
    zeros = decisions(out, observation=np.zeros((1, 2, 2), np.float32))["action"][0].tolist()
    assert done.stdout == f"{', '.join(about['agents'])} decide {zeros}\n"
    # Nothing of the machine that wrote the file is in it.
    assert b"site-packages" not in out.read_bytes()
    assert str(Path.home()).encode() not in out.read_bytes()
    # A second time is refused, and touches nothing.
    content = out.read_bytes()
    code, _, error = command(capsys, checkpoint, "--out", out)
    assert (code, len(error.splitlines())) == (1, 1)
    assert "nothing is yet" in error
    assert out.read_bytes() == content


@pytest.mark.parametrize("format", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
def test_groups_and_agents_in_files_of_their_own(online, tmp_path, format):
    torch.manual_seed(0)
    expected_draw = torch.rand(2)
    torch.manual_seed(0)
    out = tmp_path / f"p{formats.FORMATS[format]}"
    written = export_policy(online, out, format=format)
    written += export_policy(online, out, format=format, per_agent=True, group="adversary")
    assert torch.equal(torch.rand(2), expected_draw)
    names = ["p-adversary", "p-agent", "p-adversary_0", "p-adversary_1"]
    assert [policy.path for policy in written] == [out.with_stem(name) for name in names]
    assert sorted(tmp_path.iterdir()) == sorted(policy.path for policy in written)
    expected, observations = {}, {}
    for group in online.group_map:
        size = online.observation_spec[group, "observation"].shape
        observations[group] = torch.randn(5, *size)
        decided = decide(online, group, observation=observations[group])
        expected[group] = decided[group, "action"].numpy()
        found = decisions(out.with_stem(f"p-{group}"), observation=observations[group])["action"]
        assert np.abs(found - expected[group]).max() < 1e-5
        assert found.min() >= 0  # the bounds of the task, not [-1, 1]
    for index in (0, 1):
        path = out.with_stem(f"p-adversary_{index}")
        observation = observations["adversary"][:, index].contiguous()
        found = decisions(path, observation=observation)["action"]
        assert np.abs(found - expected["adversary"][:, index]).max() < 1e-5
        about = read_metadata(path)
        assert about["agents"] == [f"adversary_{index}"]
        assert about["outputs"][0]["low"] == [0.0] * 5
    for policy in written:
        json.dumps(policy.metadata, allow_nan=False)
        assert policy.metadata == read_metadata(policy.path)
        assert b"site-packages" not in policy.path.read_bytes()
        assert set(policy.differences) == {"random", "environment"}
        assert all(0 <= difference < 1e-6 for difference, _ in policy.differences.values())


@pytest.mark.slow
def test_a_recurrent_policy_plays_an_episode(tmp_path):
    model = GruConfig.get_from_yaml()
    model.hidden_size, model.mlp_num_cells = 16, [16]
    run = experiment(tmp_path, MappoConfig, model=model)
    (policy,) = export_policy(run, tmp_path / "policy.onnx")
    assert policy.metadata["states"] == {"hidden_gru_0": "next_hidden_gru_0"}
    with set_exploration_type(ExplorationType.DETERMINISTIC), torch.no_grad():
        episode = run.test_env.rollout(6, run.policy, break_when_any_done=False)
    session = onnxruntime.InferenceSession(policy.path)
    hidden = np.zeros((4, 3, 1, 16), np.float32)
    for step in range(6):
        observation = episode["agents", "observation"][:, step].numpy()
        feed = {"observation": observation, "hidden_gru_0": hidden}
        action, hidden = session.run(["action", "next_hidden_gru_0"], feed)
        assert np.abs(action - episode["agents", "action"][:, step].numpy()).max() < 1e-5
    assert np.abs(hidden).max() > 0.01
    run.close()


def test_discrete_actions_are_indices_and_online_buffers_are_checked(tmp_path, capsys):
    run = experiment(tmp_path / "runs", IqlConfig)
    run.run()
    out = tmp_path / "policy.onnx"
    code, said, error = command(capsys, next((tmp_path / "runs").rglob("*.pt")), "--out", out)
    assert code == 0, error
    assert "20 dataset observations" in said
    observation = torch.randn(50, 3, 16)
    found = decisions(out, observation=observation)["action"]
    assert found.dtype == np.int64
    assert (
        found == decide(run, "agents", observation=observation)["agents", "action"].numpy()
    ).all()
    assert read_metadata(out)["outputs"][0]["choices"] == 9


def test_a_program_of_torch(online, tmp_path):
    (policy,) = export_policy(online, tmp_path / "p.pt2", format="torch", group="agent")
    assert policy.path.name == "p.pt2"
    program = torch.export.load(policy.path).module()
    shape = online.observation_spec["agent", "observation"].shape
    for size in (1, 9):
        observation = torch.randn(size, *shape)
        expected = decide(online, "agent", observation=observation)["agent", "action"]
        torch.testing.assert_close(program(observation)[0], expected, atol=1e-6, rtol=0)
    assert read_metadata(policy.path) == policy.metadata
    assert max(difference for difference, _ in policy.differences.values()) < 1e-6


# ------------------------------------------------------------- nothing half, nothing lost


def test_a_file_that_disagrees_is_not_left(online, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="random observations; nothing was written"):
        export_policy(online, tmp_path / "new" / "p.pt2", format="torch", group="agent")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_all_files_or_none(online, tmp_path, kind):
    taken = tmp_path / "p-agent.pt2"
    if kind == "file":
        taken.write_text("mine")
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to("nowhere")
    with pytest.raises(ExportError, match=r"p-agent\.pt2; files are never overwritten"):
        export_policy(online, tmp_path / "p.pt2", format="torch")
    assert list(tmp_path.iterdir()) == [taken]


def test_a_file_that_appears_meanwhile_is_spared(tmp_path):
    targets = [tmp_path / "a.onnx", tmp_path / "b.onnx"]

    def write():
        with exporting._new_files(targets) as temporary:
            for path in temporary:
                path.write_text("new")
            targets[1].write_text("mine")

    with pytest.raises(ExportError, match="nothing is yet"):
        write()
    assert targets[1].read_text() == "mine"
    assert list(tmp_path.iterdir()) == [targets[1]]


def test_without_onnxruntime_nothing_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "onnxruntime" else name)
    assert formats.runner(tmp_path / "p.onnx", "onnx") is None
    ports = [{"name": "observation", "shape": ["batch", 3]}]
    about = {"agents": ["a"], "inputs": ports, "outputs": ports}
    said = describe(ExportedPolicy(tmp_path / "p.onnx", about, {}))
    assert "not compared with the policy: onnxruntime is not installed" in said


def test_without_onnx_the_extra_is_named(online, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnx and onnxscript .*benchmarl-ssd\[onnx\]"):
        export_policy(online, tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_cannot_be_followed_is_refused(tmp_path):
    run = experiment(
        tmp_path / "run", MaddpgConfig, model=mlp(activation_class=Moody), share_policy_params=True
    )
    with pytest.raises(ExportError, match=r"torch\.export can follow"):
        export_policy(run, tmp_path / "new" / "p.onnx")
    assert not (tmp_path / "new").exists()
    run.close()


class Moody(torch.nn.Module):
    """What it does hangs on the values that it sees."""

    def forward(self, x):
        return x.abs() if bool((x > 0).all()) else x


MISTAKES = {
    "no checkpoint": (["nowhere.pt", "--out", "p.onnx"], "none at nowhere.pt"),
    "no out": (["nowhere.pt"], "--out"),
    "suffix": (["nowhere.pt", "--out", "p.pt"], "end with .onnx, found 'p.pt'"),
    "format": (["nowhere.pt", "--out", "p.onnx", "--format", "tflite"], "found 'tflite'"),
    "no experiment": ([str(ACT), "--out", "p.onnx"], "config.pkl"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_one_line_and_write_nothing(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    arguments, message = MISTAKES[kind]
    code, _, error = command(capsys, *arguments)
    assert (code, message in error, len(error.splitlines())) == (1, True, 1)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_group_is_named(online, tmp_path):
    with pytest.raises(ExportError, match="adversary, agent, found 'prey'"):
        export_policy(online, tmp_path / "p.onnx", group="prey")
    assert list(tmp_path.iterdir()) == []
