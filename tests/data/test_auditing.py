"""An audit finds everything that is wrong at once, says where, and stays silent on sound data."""

import hashlib
import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.nn.functional import one_hot

from benchmarl_ssd.data import DatasetError, DatasetWriter, validate
from benchmarl_ssd.data.auditing import audit
from benchmarl_ssd.data.editing import subset
from benchmarl_ssd.data.examples import example_episodes, write_example
from benchmarl_ssd.data.metadata import DatasetMetadata

OBSERVATION, NEXT = "agents/observation", "next/agents/observation"


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "data")


def write(path, data, task=None):
    n = data["agents", "action"].shape[1]
    bounds = {"agents": {"low": -torch.ones(n, 1), "high": torch.ones(n, 1)}}
    groups = {"agents": [f"agent_{i}" for i in range(n)]}
    with DatasetWriter(path, groups=groups, action_bounds=bounds, task=task) as writer:
        writer.extend(data)
    return path


def change(folder, name, function, dtype=torch.float32, sign=True):
    """Change a tensor's file; ``sign`` makes its checksum right again, as another writer would."""
    metadata = DatasetMetadata.read(folder)
    info = metadata.tensors[name]
    values = torch.frombuffer(bytearray((folder / info.file).read_bytes()), dtype=dtype)
    values = values.view(info.shape)
    function(values)
    content = values.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    (folder / info.file).write_bytes(content)
    if sign:
        raw = json.loads((folder / "metadata.json").read_text())
        raw["tensors"][name]["sha256"] = hashlib.sha256(content).hexdigest()
        metadata = DatasetMetadata.from_json(json.dumps(raw))
        metadata.checksum = metadata.total_checksum()
        (folder / "metadata.json").write_text(metadata.to_json())


def put(*index, value):
    def function(values):
        values[index] = value

    return function


def kinds(result):
    return [(f.level, f.check, f.key, f.row, f.count) for f in result.findings]


# ------------------------------------------------------------------------------------ soundness


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    episodes=st.integers(2, 6),
    length=st.integers(1, 7),
    agents=st.integers(1, 3),
    piece=st.sampled_from([1, 200, 900, 10**7]),
    seed=st.integers(0, 99),
)
def test_recorded_data_is_sound_however_it_is_cut(
    tmp_path_factory, monkeypatch, episodes, length, agents, piece, seed
):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", piece)
    path = tmp_path_factory.mktemp("audit") / "data"
    write_example(path, episodes=episodes, length=length, agents=agents, seed=seed)
    assert audit(path).findings == []
    validate(path)


def test_all_findings_are_reported_not_the_first(folder):
    change(folder, OBSERVATION, put(2, 0, 1, value=float("nan")))
    change(folder, OBSERVATION, put(7, 1, 2, value=float("inf")))
    change(folder, "agents/action", put(slice(3, 6), 1, 0, value=1.5))
    change(folder, "next/done", put(12, 0, value=True), torch.bool)
    change(folder, "next/agents/reward", put(0, 0, 0, value=0.5), sign=False)
    result = audit(folder)
    assert result.errors == len(result.findings)
    assert kinds(result)[:4] == [
        ("error", "bounds", "agents/action", 3, 3),
        ("error", "values", OBSERVATION, 2, 2),
        ("error", "flags", "next/done", 12, 1),
        ("error", "episodes", "episode", 13, 7),
    ]
    checks = {(f.check, f.key) for f in result.findings}
    assert ("checksum", "data/next/agents/reward.memmap") in checks
    assert ("metadata", "metadata.json") in checks  # the return is another one now
    by_key = {f.key: f for f in result.findings}
    assert "found 1.5" in by_key["agents/action"].message
    assert f"benchmarl-ssd subset {folder} --sound" in by_key[OBSERVATION].mend
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize("piece", [1, 300, 10**7])
def test_broken_continuity_is_found_across_pieces(folder, monkeypatch, piece):
    monkeypatch.setattr("benchmarl_ssd.data.reading.CHUNK_BYTES", piece)
    change(folder, NEXT, put(6, 1, 0, value=9.0))
    change(folder, NEXT, put(8, 0, 0, value=9.0))
    change(folder, NEXT, put(9, 0, 0, value=9.0))  # an episode's end has no next step
    assert kinds(audit(folder)) == [("error", "continuity", NEXT, 6, 2)]
    assert "9 in next/agents/observation at transition 6" in audit(folder).findings[0].found


def test_state_is_continuous_too(tmp_path):
    data = example_episodes()
    data["state"] = (
        torch.arange(20.0).view(20, 1) + 100 * torch.arange(20).view(20, 1).div(5).long()
    )
    data["next", "state"] = data["state"] + 1
    assert audit(write(tmp_path / "sound", data)).findings == []
    data["next", "state"][3] += 1
    assert kinds(audit(write(tmp_path / "broken", data))) == [
        ("error", "continuity", "next/state", 3, 1)
    ]


# ------------------------------------------------------------------------------------- columns


def test_padding_is_one_finding(folder):
    def pad(values):
        values[:, 1, 1:] = -torch.inf

    change(folder, OBSERVATION, pad)
    change(folder, NEXT, put(4, 0, 0, value=-torch.inf))
    result = audit(folder)
    assert kinds(result) == [
        ("error", "values", NEXT, 4, 1),
        ("error", "padding", OBSERVATION, 0, 20),
    ]
    assert "-inf in every transition" in result.findings[1].found
    assert "agent 1, columns 1-2" in result.findings[1].found


def test_constant_and_doubled_columns(tmp_path):
    data = example_episodes(agents=3)
    observation, after = data["agents", "observation"], data["next", "agents", "observation"]
    for values in (observation, after):
        values[:, 0, 2] = 4.0
        values[:, 2, 1] = values[:, 2, 0]
    data["agents", "action"][:, 1] = data["agents", "action"][:, 0]
    data["next", "agents", "reward"].fill_(1.0)
    result = audit(write(tmp_path / "data", data))
    assert all(f.level == "warning" for f in result.findings)
    found = {(f.check, f.key): f.found for f in result.findings}
    assert found == {
        ("constant", OBSERVATION): f"always 4 in {OBSERVATION}, agent 0, column 2",
        ("duplicated", OBSERVATION): f"equal ones in {OBSERVATION}: agent 2, column 1 is column 0",
        ("duplicated", "agents/action"): "agents 0 and 1 with equal actions in every transition",
        ("constant", "next/agents/reward"): "always 1 in next/agents/reward, all agents, column 0",
    }


def test_columns_that_differ_once_are_not_doubled(tmp_path):
    data = example_episodes()
    observation, after = data["agents", "observation"], data["next", "agents", "observation"]
    for values in (observation, after):
        values[..., 1] = values[..., 0]
    observation[0, :, 1] += 1.0
    assert audit(write(tmp_path / "data", data)).findings == []


def test_a_reset_instead_of_the_final_observation(tmp_path):
    data = example_episodes(episodes=12)
    first = data["agents", "observation"][::5]
    ends = torch.arange(4, 59, 5)
    data["next", "agents", "observation"][ends] = first[1:]
    result = audit(write(tmp_path / "data", data))
    assert [(f.level, f.check, f.key) for f in result.findings] == [
        ("warning", "final observation", NEXT)
    ]
    assert "11 of 11 ends" in result.findings[0].found


# ------------------------------------------------------------------------------------ episodes


def all_terminated(data):
    done = data["next", "done"]
    data["next", "terminated"], data["next", "truncated"] = done.clone(), torch.zeros_like(done)
    return data


def test_a_time_limit_in_disguise_and_its_mend(tmp_path):
    path = write(tmp_path / "data", all_terminated(example_episodes(episodes=6)))
    result = audit(path)
    assert kinds(result) == [("warning", "time limit", "next/terminated", 4, 6)]
    command = result.findings[0].mend.partition("--time-limit ")[2]
    subset(path, tmp_path / "mended", time_limit=int(command.split()[0]))
    assert audit(tmp_path / "mended").findings == []
    counts = validate(tmp_path / "mended").counts
    assert (counts["terminated"], counts["truncated"]) == (0, 6)


def test_ends_that_are_the_tasks_own_are_no_finding(tmp_path):
    lengths = [torch.cat([example_episodes(1, length) for length in (3, 5, 4, 5)])]
    path = write(tmp_path / "differing", all_terminated(torch.cat(lengths)))
    assert audit(path).findings == []
    path = write(tmp_path / "bandit", all_terminated(example_episodes(9, 1)))
    assert audit(path).findings == []


def test_odd_lengths(tmp_path):
    parts = [example_episodes(3, 8), example_episodes(2, 1, seed=1)[1:], example_episodes(1, 12)]
    task = {"environment": "e", "name": "n", "config": {"max_steps": 10}}
    result = audit(write(tmp_path / "data", torch.cat(parts), task=task))
    lengths = [f for f in result.findings if f.check in ("lengths", "max_steps")]
    assert [(f.row, f.count) for f in lengths] == [(24, 1), (25, 1)]
    assert "1 of one step" in lengths[0].found
    assert "up to 12" in lengths[1].found


def test_numbers_that_the_values_do_not_bear_out_and_their_mend(folder, tmp_path):
    raw = json.loads((folder / "metadata.json").read_text())
    mean = raw["episode_return"]["mean"]
    raw["episode_return"]["mean"] = 99.0
    raw["counts"] |= {"terminated": 3, "truncated": 1}
    (folder / "metadata.json").write_text(json.dumps(raw))
    result = audit(folder)
    assert [f.expected.split(" ", 1)[1].split(",")[0] for f in result.findings] == [
        "at counts.terminated in metadata.json",
        "at counts.truncated in metadata.json",
        "at episode_return.mean in metadata.json",
    ]
    again = subset(folder, tmp_path / "again")
    assert again.episode_return["mean"] == pytest.approx(mean)
    assert audit(tmp_path / "again").findings == []


# -------------------------------------------------------------------------- damaged beyond that


def test_damaged_files_do_not_hide_what_the_others_hold(folder):
    (folder / "data" / "agents" / "action.memmap").unlink()
    with (folder / "data" / "next" / "agents" / "reward.memmap").open("ab") as file:
        file.write(b"more")
    change(folder, OBSERVATION, put(5, 0, 0, value=float("nan")))
    (folder / "data" / "meta.json").write_bytes(
        b" " * (folder / "data" / "meta.json").stat().st_size
    )
    assert {(f.check, f.key) for f in audit(folder).findings} == {
        ("files", "data/agents/action.memmap"),
        ("files", "data/next/agents/reward.memmap"),
        ("values", OBSERVATION),
        ("checksum", "data/meta.json"),
    }


def test_flags_that_are_no_flags(folder):
    change(folder, "next/agents/reward", put(0, 0, 0, value=-0.0), sign=False)
    file = folder / "data" / "next" / "truncated.memmap"
    content = bytearray(file.read_bytes())
    content[3] = 7
    file.write_bytes(content)
    found = {(f.check, f.key, f.row) for f in audit(folder).findings}
    assert ("values", "next/truncated", 3) in found
    with pytest.raises(DatasetError, match="expected 0 or 1, found 7 in next/truncated"):
        validate(folder)


def test_a_wrong_layout_does_not_stop_the_audit(folder):
    raw = json.loads((folder / "metadata.json").read_text())
    raw["groups"]["agents"].append("third")
    raw["action_bounds"]["agents"]["low"] = [[0.0]]
    (folder / "metadata.json").write_text(json.dumps(raw))
    change(folder, "next/done", put(4, 0, value=False), torch.bool, sign=False)
    checks = {f.check for f in audit(folder).findings}
    assert {"shape", "action bounds", "flags", "checksum"} <= checks


@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (lambda f: (f / "metadata.json").unlink(), "folder"),
        (lambda f: shutil.rmtree(f / "data"), "folder"),
        (lambda f: (f / "metadata.json").write_text("{"), "metadata"),
        (lambda f: (f / "metadata.json").write_bytes(b"\xff\xfe"), "metadata"),
        (lambda f: (f / "metadata.json").write_text('{"format": "minari"}'), "metadata"),
    ],
)
def test_what_cannot_be_read_is_a_finding(folder, damage, check):
    damage(folder)
    result = audit(folder)
    assert [(f.level, f.check) for f in result.findings] == [("error", check)]
    assert result.metadata is None
    json.dumps(result.to_dict(), allow_nan=False)


def test_nothing_there_is_the_callers_mistake(tmp_path):
    with pytest.raises(DatasetError, match="found nothing there"):
        audit(tmp_path / "none")


def test_the_fast_audit_reads_no_values(folder):
    change(folder, OBSERVATION, put(5, 0, 0, value=float("nan")), sign=False)
    assert audit(folder, contents=False).findings == []
    assert audit(folder).errors == 2


def test_an_audit_changes_nothing(folder):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    audit(folder)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert len(list(folder.parent.iterdir())) == 1


@pytest.mark.parametrize("state", [(5,), (5, 1)])
@pytest.mark.parametrize("kind", ["choices", "one-hot numbers", "one-hot flags"])
def test_discrete_actions_and_narrow_entries_are_audited(kind, state, tmp_path):
    choice = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1], [1, 2]])
    action = choice if kind == "choices" else one_hot(choice, 3)
    action = action.bool() if kind == "one-hot flags" else action
    high = torch.full(action.shape[1:], 2 if kind == "choices" else 1)
    now, after = torch.randn(6, 2), torch.randn(6, *state[1:])
    data = TensorDict(
        {
            "agents": {"observation": now[:5], "action": action},
            "state": after[:5],
            "next": {
                "agents": {"observation": now[1:], "reward": torch.randn(5, 2, 1)},
                "state": after[1:],
                "terminated": torch.zeros(5, 1, dtype=torch.bool),
                "truncated": (torch.arange(5) == 4).unsqueeze(1),
            },
        },
        [5],
    )
    bounds = {"agents": {"low": torch.zeros_like(high), "high": high}}
    path = tmp_path / "data"
    with DatasetWriter(path, groups={"agents": ["a", "b"]}, action_bounds=bounds) as writer:
        writer.extend(data)
    assert kinds(audit(path)) == []
    assert subset(path, tmp_path / "sound", sound=True).episodes == 1
    if kind == "choices":  # a constant choice is told of, by agent
        data["agents", "action"][:, 1] = 1
        with DatasetWriter(
            tmp_path / "same", groups={"agents": ["a", "b"]}, action_bounds=bounds
        ) as writer:
            writer.extend(data)
        assert [f.check for f in audit(tmp_path / "same").findings] == ["constant"]
