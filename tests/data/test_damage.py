"""Datasets that are damaged say so clearly, when they are opened."""

import json
import os
import shutil

import pytest
import torch
from folders import fingerprint

from benchmarl_ssd.data import DatasetError, OfflineDataset, validate
from benchmarl_ssd.data.examples import write_example


@pytest.fixture
def folder(tmp_path):
    return write_example(tmp_path / "data")


def edit(change):
    """Change the metadata, its own checksum included: what is left to find is the change."""

    def damage(folder):
        file = folder / "metadata.json"
        raw = json.loads(file.read_text())
        change(raw)
        file.write_text(json.dumps(raw))

    return damage


def put(name, index, value, dtype=torch.float32):
    """Write one value into a tensor's file."""

    def damage(folder):
        file = folder / "data" / f"{name}.memmap"
        values = torch.frombuffer(bytearray(file.read_bytes()), dtype=dtype)
        values[index] = value
        file.write_bytes(values.numpy().tobytes())

    return damage


def link_out(folder):
    file = folder / "data" / "episode.memmap"
    shutil.move(file, folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def resize(name, by):
    def damage(folder):
        file = folder / name
        os.truncate(file, file.stat().st_size + by)

    return damage


def shapes(name, shape):
    def change(raw):
        raw["tensors"][name]["shape"] = shape

    return change


def no_transitions(folder):
    def change(raw):
        raw["counts"]["transitions"] = 0
        for info in raw["tensors"].values():
            info["shape"][0] = info["bytes"] = 0

    edit(change)(folder)
    for file in folder.rglob("*.memmap"):
        file.write_bytes(b"")


FAST = {
    "no folder": (shutil.rmtree, "found nothing there"),
    "a file": (
        lambda f: (shutil.rmtree(f), f.write_text("")),
        "expected a folder at .* found a file",
    ),
    "an empty folder": (
        lambda f: [shutil.rmtree(f), f.mkdir()],
        "expected metadata.json in .* a dataset is a folder",
    ),
    "no metadata": (lambda f: (f / "metadata.json").unlink(), "expected metadata.json in"),
    "metadata is a folder": (
        lambda f: [(f / "metadata.json").unlink(), (f / "metadata.json").mkdir()],
        "expected a file",
    ),
    "no data": (lambda f: shutil.rmtree(f / "data"), "expected data in"),
    "no JSON": (lambda f: (f / "metadata.json").write_text("{"), "expected JSON"),
    "deep JSON": (lambda f: (f / "metadata.json").write_text("[" * 100_000), "expected JSON"),
    "no text": (lambda f: (f / "metadata.json").write_bytes(b"\xff\xfe\x00"), "not UTF-8"),
    "a list": (lambda f: (f / "metadata.json").write_text("[]"), "holds something else"),
    "another format": (edit(lambda raw: raw.update(format="minari")), "found 'minari'"),
    "version": (
        edit(lambda raw: raw.update(format_version=7)),
        "unknown format version 7; this package reads version 1; upgrade",
    ),
    "version's type": (edit(lambda raw: raw.update(format_version=True)), "unknown format version"),
    "missing entry": (edit(lambda raw: raw.pop("groups")), "an entry at groups"),
    "wrong type": (edit(lambda raw: raw.update(tensors=[])), "dict at tensors"),
    "wrong count": (edit(lambda raw: raw["counts"].update(episodes="4")), "int at counts.episodes"),
    "no groups": (edit(lambda raw: raw.update(groups={})), "at least one group"),
    "no agents": (edit(lambda raw: raw.update(groups={"agents": []})), "agents' names"),
    "dtype": (edit(lambda raw: raw["tensors"]["episode"].update(dtype="object")), "one of float16"),
    "negative shape": (edit(shapes("episode", [-20])), "a list of sizes"),
    "size": (edit(shapes("agents/action", [20, 2, 9])), "1440 .* at tensors.agents/action.bytes"),
    "path out": (
        edit(lambda raw: raw["tensors"]["episode"].update(file="../elsewhere")),
        "expected 'data/episode.memmap' at tensors.episode.file",
    ),
    "absolute path": (
        edit(lambda raw: raw["tensors"]["episode"].update(file="/etc/passwd")),
        "episode.memmap'",
    ),
    "name out": (
        edit(lambda raw: raw["tensors"].update({"../x": raw["tensors"]["episode"]})),
        "tensor names such as",
    ),
    "index out": (
        edit(lambda raw: raw["index"].update({"/etc/hostname": {"bytes": 1, "sha256": ""}})),
        "/etc/hostname",
    ),
    "link out": (link_out, "a link out of it"),
    "missing file": (
        lambda f: (f / "data" / "agents" / "action.memmap").unlink(),
        "expected data/agents/action.memmap in .* No such file",
    ),
    "missing index": (lambda f: (f / "data" / "meta.json").unlink(), "expected data/meta.json in"),
    "truncated file": (
        resize("data/agents/observation.memmap", -4),
        "480 bytes .* found 476.*truncated",
    ),
    "long file": (resize("data/next/done.memmap", 1), "20 bytes .* found 21.*too long"),
    "agents": (
        edit(lambda raw: raw["groups"]["agents"].append("third")),
        "\\[T, 3, ...\\] for the 3",
    ),
    "bounds": (
        edit(lambda raw: raw["action_bounds"]["agents"].update(low=[[0.0]])),
        "of shape \\[2, 1\\]",
    ),
    "transitions": (
        edit(lambda raw: raw["counts"].update(transitions=21)),
        "expected 21 transitions .* found 20",
    ),
    "empty": (no_transitions, "empty dataset"),
    "checksum": (
        edit(lambda raw: raw.update(checksum="0" * 64)),
        "expected checksum .* was changed",
    ),
    "tensor's checksum": (
        edit(lambda raw: raw["tensors"]["episode"].update(sha256="0" * 64)),
        "was changed",
    ),
    "references": (
        edit(lambda raw: raw.update(references={"random": "low"})),
        "at references.random",
    ),
}
FULL = {
    "nan": (
        put("agents/observation", 13, float("nan")),
        "finite values, found nan in agents/observation at transition 2",
    ),
    "inf": (
        put("next/agents/reward", 39, float("inf")),
        "finite values, found inf in next/agents/reward at transition 19",
    ),
    "out of bounds": (
        put("agents/action", 7, 1.5),
        "actions in \\[-1, 1\\], found 1.5 in agents/action at transition 3, agent 1",
    ),
    "done": (put("next/done", 2, True, torch.bool), "done=True, terminated=False, .* transition 2"),
    "both flags": (put("next/truncated", 3, True, torch.bool), "transition 3"),
    "episodes": (put("episode", 7, 0, torch.int64), "expected episode 1, found 0 at transition 7"),
    "contents": (
        put("next/agents/observation", 0, 0.25),
        "checksum .*next/agents/observation.memmap",
    ),
    "index": (
        lambda f: (f / "data" / "meta.json").write_bytes(
            b" " * (f / "data" / "meta.json").stat().st_size
        ),
        "checksum .*data/meta.json",
    ),
}


@pytest.mark.parametrize("kind", FAST)
def test_damage_found_by_the_fast_check(folder, kind):
    damage, message = FAST[kind]
    damage(folder)
    for check in ("fast", "full"):
        with pytest.raises(DatasetError, match=message):
            OfflineDataset(folder, check=check)


@pytest.mark.parametrize("kind", FULL)
def test_damage_found_by_the_full_check(folder, kind):
    damage, message = FULL[kind]
    damage(folder)
    before = fingerprint(folder)
    with pytest.raises(DatasetError, match=message):
        OfflineDataset(folder)
    validate(folder, "fast")
    assert fingerprint(folder) == before


def test_a_string_is_a_path_too(folder):
    assert validate(str(folder)).episodes == 4


def test_damage_far_in_a_large_file_is_found(tmp_path):
    folder = write_example(tmp_path / "data", episodes=4000, length=200)
    put("next/agents/observation", 4_700_000, float("nan"))(folder)
    with pytest.raises(DatasetError, match="at transition 783333"):
        OfflineDataset(folder)


def test_an_unknown_check_is_an_error(folder):
    with pytest.raises(DatasetError, match="full, fast, auto"):
        OfflineDataset(folder, check="none")
