"""``benchmarl-ssd import`` and ``export``: what they make, say and refuse."""

import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorstore

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "importers"))

from import_sources import (
    own_arrays,
    played,
    vault_leaves,
    vault_spec,
    write_omar,
    write_omiga,
    write_paths,
    write_vault,
)

from benchmarl_ssd.cli import main
from benchmarl_ssd.data import OfflineDataset, export
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.data.importers import streaming
from benchmarl_ssd.data.metadata import DatasetMetadata

NOWHERE = ["--task", "logged/mine"]


def fingerprint(path):
    """Names, contents and times of all that lies there."""
    found = {}
    for p in sorted([path, *path.rglob("*")]):
        regular = p.is_file() and not p.is_symlink()
        content = hashlib.sha256(p.read_bytes()).hexdigest() if regular else None
        found[str(p)] = (content, p.lstat().st_mtime_ns if regular else None)
    return found


# -------------------------------------------------------------------------- what they make


def test_omar_of_a_task(tmp_path, run):
    source = write_omar(tmp_path / "simple_spread" / "expert" / "seed_0_data", played())
    before = fingerprint(source)
    code, said, error = run(
        "import", "omar", source, "--task", "mpe/cooperative_navigation", "--out", tmp_path / "out"
    )
    assert code == 0, error
    assert fingerprint(source) == before
    metadata = OfflineDataset(tmp_path / "out").metadata
    assert metadata.task["name"] == "cooperative_navigation"
    assert metadata.task["config"]["n_agents"] == 3
    assert metadata.references == {"random": 159.8, "expert": 516.8}
    assert metadata.action_bounds["agents"]["high"] == [[1.0, 1.0]] * 3
    assert metadata.source["action_bounds"] == "of task mpe/cooperative_navigation"
    assert "references: random 159.8, expert 516.8 (OMAR (Pan et al., 2022))" in said
    assert "dones_0.npy to dones_2.npy mark no end, 2 at the time limit of 25 steps" in said
    assert f"written to {tmp_path / 'out'}" in said


@pytest.mark.parametrize(
    ("name", "references"),
    [("predator_prey", (-4.1, 185.6)), ("world", (-6.8, 79.5)), ("4ant", None)],
)
def test_references_of_the_literature(tmp_path, run, name, references):
    source = write_omar(tmp_path / "simple_x" / "seed_0_data", played(size=16))
    arguments = ["import", "omar", source, "--task", f"logged/{name}"]
    assert run(*arguments, "--out", tmp_path / "out")[0] == 0
    found = DatasetMetadata.read(tmp_path / "out").references
    random, expert = references or (-325.6, 3224.91)
    assert found == {"random": random, "expert": expert}
    own = ["--reference-random", "-1.5", "--reference-expert", "2"]
    assert run(*arguments, *own, "--out", tmp_path / "own")[0] == 0
    assert DatasetMetadata.read(tmp_path / "own").references == {"random": -1.5, "expert": 2.0}
    assert run(*arguments, *own[:2], "--out", tmp_path / "half")[0] == 0
    half = DatasetMetadata.read(tmp_path / "half")
    assert half.references == {"random": -1.5, "expert": expert}
    assert half.source["references"].startswith("given, or O")


def test_options_of_a_task_take_its_references(tmp_path, run):
    # Observations of 4 agents have 4 more entries per agent and landmark.
    source = write_omar(tmp_path / "mine" / "seed_0_data", played(lengths=(25,), n=4, size=24))
    code, _, error = run(
        "import", "omar", source, "--task", "mpe/cooperative_navigation", "--out", tmp_path / "out",
        "n_agents=4",
    )  # fmt: skip
    assert code == 0, error
    metadata = DatasetMetadata.read(tmp_path / "out")
    assert (metadata.references, metadata.task["config"]["n_agents"]) == (None, 4)
    assert len(metadata.groups["agents"]) == 4


def test_madiff_reports_what_is_dropped(tmp_path, run):
    source = write_paths(tmp_path / "2ant" / "Good", played(lengths=(1000, 40), n=2, size=9))
    code, said, error = run(
        "import", "madiff", source, "--strip-agent-ids", *NOWHERE, "--out", tmp_path / "out"
    )
    assert code == 0, error
    assert "dropped: the last step of 1 truncated episodes" in said
    assert "agent ids: stripped" in said
    assert "episodes: 1 end where path_lengths.npy say so, 1 at the time limit of 1000" in said


def test_omiga_with_bounds_and_group(tmp_path, run):
    data = played(lengths=(12, 20), n=2, size=11, actions=2, state=23)
    data["action"] *= 2
    source = write_omiga(tmp_path / "Ant-v2-2x4-expert.hdf5", data)
    bounds = ["--action-low", "-2,-2.5", "--action-high", "2"]
    code, _, error = run(
        "import", "omiga", source, *bounds, "--group", "legs", *NOWHERE, "--out", tmp_path / "out"
    )
    assert code == 0, error
    metadata = OfflineDataset(tmp_path / "out").metadata
    assert metadata.action_bounds == {"legs": {"low": [[-2.0, -2.5]] * 2, "high": [[2.0] * 2] * 2}}
    assert "standardises" in metadata.source["observations"]


def test_vault(tmp_path, run):
    data = played(lengths=(12, 20), n=2, size=11, state=4)
    source = write_vault(tmp_path / "2ant.vlt" / "Good", vault_leaves(data))
    before = fingerprint(source)
    code, _, error = run("import", "vault", source, "--task", "2ant", "--out", tmp_path / "out")
    assert code == 0, error
    assert fingerprint(source) == before
    metadata = OfflineDataset(tmp_path / "out").metadata
    assert metadata.task == {"environment": "logged", "name": "2ant", "config": {}}
    assert metadata.references == {"random": -325.6, "expert": 3362.44}


def test_arrays_by_a_mapping(tmp_path, run):
    data = played(lengths=(25,) * 4)
    np.savez(tmp_path / "log.npz", o=data["observation"], a=data["action"], r=data["reward"])
    (tmp_path / "map.yaml").write_text("observations: o\nactions: a\nrewards: r\n")
    code, _, error = run(
        "import", "arrays", tmp_path / "log.npz", "--mapping", tmp_path / "map.yaml",
        "--episode-length", "25", "--last-step", "repeat", "--out", tmp_path / "out",
        "--task", "mpe/cooperative_navigation",
    )  # fmt: skip
    assert code == 0, error
    metadata = OfflineDataset(tmp_path / "out").metadata
    assert metadata.counts["truncated"] == 4
    assert metadata.references == {"random": 159.8, "expert": 516.8}  # as of our own recipes


def test_export_and_import(tmp_path, run):
    folder = write_example(tmp_path / "dataset")
    before = fingerprint(folder)
    code, said, error = run("export", folder, "--out", tmp_path / "d.hdf5")
    assert (code, "written to" in said) == (0, True), error
    assert run("import", "hdf5", tmp_path / "d.hdf5", "--out", tmp_path / "back")[0] == 0
    assert fingerprint(folder) == before
    texts = {(path / "metadata.json").read_text() for path in (folder, tmp_path / "back")}
    assert len(texts) == 1
    assert run("export", folder, "--no-compress", "--out", tmp_path / "e.hdf5")[0] == 0


# --------------------------------------------------------------------- malformed sources


def omar(change=None, **kwargs):
    """A source of OMAR's with something wrong."""

    def make(folder):
        data = played(lengths=(25, 25), n=3, size=6)
        source = write_omar(folder / "simple_spread" / "seed_0_data", data, **kwargs)
        if change:
            change(source)
        return ["omar", source]

    return make


def edit(name, function):
    """Change an npy file's values."""

    def change(folder):
        np.save(folder / name, function(np.load(folder / name)))

    return change


def put(row, value):
    def change(values):
        values[row] = value
        return values

    return change


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def grow(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"x")


def replace(name, function):
    def change(folder):
        (folder / name).unlink()
        function(folder / name)

    return change


def link_out(folder):
    target = folder.parent / "elsewhere.npy"
    (folder / "obs_1.npy").rename(target)
    (folder / "obs_1.npy").symlink_to(target)


def several_seeds(folder):
    write_omar(folder.parent / "seed_1_data", played(size=6))


def absurd_header(folder):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**15, 6)}
    with (folder / "obs_0.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)


def parent(make):
    def make_parent(folder):
        format, source = make(folder)
        return [format, source.parent]

    return make_parent


def paths(change=None, arguments=(), **kwargs):
    """A source of MADiff's with something wrong."""

    def make(folder):
        data = played(lengths=(9, 6), n=2, size=5, state=3, choices=4)
        source = write_paths(folder / "3m" / "Good", data, **kwargs)
        if change:
            change(source)
        return ["madiff", source, *arguments]

    return make


def omiga(change):
    """A file of OMIGA's with something wrong."""

    def make(folder):
        data = played(lengths=(9, 6), n=2, size=5, actions=2, state=3)
        source = write_omiga(folder / "ant.hdf5", data)
        with h5py.File(source, "r+") as archive:
            change(archive)
        return ["omiga", source]

    return make


def swap(name, function):
    def change(archive):
        values = archive[name][:]
        del archive[name]
        function(archive, values)

    return change


def external_link(archive, values):
    with h5py.File(Path(archive.filename).parent / "other.hdf5", "w") as other:
        other["o"] = values
    archive["o"] = h5py.ExternalLink("other.hdf5", "o")


def soft_link(archive, values):
    archive["hidden"] = values
    archive["o"] = h5py.SoftLink("/hidden")


def virtual(archive, values):
    with h5py.File(Path(archive.filename).parent / "other.hdf5", "w") as other:
        other["o"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource("other.hdf5", "o", values.shape)
    archive.create_virtual_dataset("o", layout)


def external_file(archive, values):
    file = Path(archive.filename).parent / "raw.bin"
    file.write_bytes(values.tobytes())
    archive.create_dataset("o", values.shape, values.dtype, external=[(file, 0, values.nbytes)])


def hollow(archive, values):
    archive.create_dataset("o", (10**9, *values.shape[1:]), values.dtype, chunks=True)


def states_differ(archive):
    archive["s"][3, 1] += 1


def broken_hdf5(folder):
    arguments = omiga(lambda archive: None)(folder)
    os.truncate(arguments[1], 2000)
    return arguments


def vault(change=None, leaves=None, arguments=(), **kwargs):
    """A Vault with something wrong."""

    def make(folder):
        values = vault_leaves(played(lengths=(9, 6), n=2, size=5, state=3))
        if leaves:
            leaves(values)
        source = write_vault(folder / "tag.vlt" / "Good", values, **kwargs)
        if change:
            change(source)
        return ["vault", source, *arguments]

    return make


def other_metadata(function):
    def change(source):
        content = json.loads((source / "metadata.json").read_text())
        function(content)
        (source / "metadata.json").write_text(json.dumps(content))

    return change


def plain_zarr(folder):
    """A Vault whose arrays lie in plain files, without the database."""
    source = vault()(folder)[1]
    for path in sorted(source.rglob("*"), reverse=True):
        if path.name != "metadata.json":
            path.rmdir() if path.is_dir() else path.unlink()
    spec = {"driver": "zarr", "kvstore": f"file://{source}/observations./"}
    tensorstore.open(spec, shape=(1, 15, 2, 5), dtype="float32", create=True).result()
    return ["vault", source]


def zarr3(folder):
    """A Vault with one array of zarr v3."""
    values = vault_leaves(played(lengths=(9, 6), n=2, size=5))
    observations = values["observations"]
    source = write_vault(folder / "tag.vlt" / "Good", values | {"other": observations})
    text = (source / "metadata.json").read_text()
    (source / "metadata.json").write_text(text.replace('"rewards"', '"new"', 2).replace(
        '"other"', '"rewards"', 2))  # fmt: skip
    spec = vault_spec(source, "rewards.") | {"driver": "zarr3"}
    tensorstore.open(spec, shape=(1, 15, 2), dtype="float32", create=True,
                     delete_existing=True).result()  # fmt: skip
    return ["vault", source]


def two_batches(folder):
    source = vault()(folder)[1]
    spec = vault_spec(source, "rewards.")
    tensorstore.open(
        spec, shape=(2, 100, 2), dtype="float32", create=True, delete_existing=True
    ).result()
    return ["vault", source]


def damage_data(source):
    for file in (source / "d").iterdir():
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def vault_link_out(source):
    (source / "d").rename(source.parent.parent / "d")
    (source / "d").symlink_to(source.parent.parent / "d")


def two_vaults(folder):
    vault()(folder)
    write_vault(folder / "tag.vlt" / "Poor", vault_leaves(played()))
    return ["vault", folder / "tag.vlt"]


def arrays(change=None, mapping=None, save=np.savez, leave=(), arguments=()):
    """An npz of one's own with something wrong."""

    def make(folder):
        values = own_arrays(played(lengths=(9, 6), n=2, size=5))
        for name in leave:
            del values[name]
        save(folder / "log.npz", **values)
        if change:
            change(folder / "log.npz")
        extra = list(arguments)
        if mapping is not None:
            (folder / "map.yaml").write_text(mapping)
            extra += ["--mapping", folder / "map.yaml"]
        return ["arrays", folder / "log.npz", *extra]

    return make


def pickled(file, **values):
    values["actions"] = np.array([{"a": 1}] * 15, dtype=object)
    np.savez(file, **values)


def numbered(file, **values):
    np.savez(file, id=np.where(np.arange(15) == 4, np.inf, 1.0), **values)


def bomb(file, **values):
    """A small archive of a few hundred MB of zeros."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("observations.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f8", "fortran_order": False, "shape": (4 * 10**6, 2, 5)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(320):
            member.write(b"\0" * 10**6)


def lying(file, **values):
    """An archive whose directory claims more than there is."""
    np.savez(file, **values)
    with zipfile.ZipFile(file, "a") as archive:
        archive.getinfo("rewards.npy").file_size += 800
        archive._didModify = True


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 4] ^= 1  # within the observations, which lie first
    file.write_bytes(content)


def exported(change=None):
    def make(folder):
        file = export(write_example(folder / "dataset"), folder / "d.hdf5", progress=False)
        if change:
            change(file)
        return ["hdf5", file]

    return make


def hdf5_edit(function):
    def change(file):
        with h5py.File(file, "r+") as archive:
            function(archive)

    return change


def other_text(archive):
    text = archive["metadata.json"][()].decode().replace('"transitions": 20', '"transitions": "x"')
    del archive["metadata.json"]
    archive["metadata.json"] = text


def plain(folder):
    """A dataset of ours, which needs no import."""
    return ["omar", write_example(folder / "dataset")]


MALFORMED = {
    # OMAR's folders
    "no folder": (lambda folder: ["omar", folder / "x"], "expected a folder at"),
    "a file for a folder": (
        lambda folder: ["omar", omar()(folder)[1] / "obs_0.npy"], "found a file; give a folder",
    ),
    "a dataset of ours": (plain, "expected obs_0.npy in"),
    "an agent without observations": (omar(remove("obs_2.npy")), "expected obs_2.npy in"),
    "an agent between": (
        omar(remove(*(f"{stem}_1.npy" for stem in ("obs", "acs", "rews", "dones", "next_obs")))),
        "expected obs_1.npy in",
    ),
    "an agent without actions": (omar(remove("acs_2.npy")), "expected acs_2.npy in"),
    "nothing that comes after": (omar(next_obs=False), "expected next_obs_0.npy in"),
    "unequal observations": (
        omar(edit("obs_1.npy", lambda values: values[:, :5])),
        "expected obs_1.npy to be of shape [50, 6] as obs_0.npy is, found [50, 5]",
    ),
    "half a file, but well-formed": (
        omar(edit("obs_2.npy", lambda values: values[:30])), "found [30, 6]",
    ),
    "half of all observations": (
        omar(lambda f: [edit(f"obs_{i}.npy", lambda v: v[:30])(f) for i in range(3)]),
        "expected 30 rows in acs_0.npy",
    ),
    "a truncated file": (omar(cut("obs_1.npy", 1000)), "the file is truncated; copy it again"),
    "a truncated header": (omar(cut("obs_1.npy", 20)), "obs_1.npy: it is damaged"),
    "an empty file": (omar(cut("obs_1.npy", 0)), "obs_1.npy: it is damaged"),
    "a file that is too long": (omar(grow("acs_0.npy")), "the file is too long"),
    "something else": (omar(write("rews_1.npy", b"reward\n1.0\n")), "rews_1.npy: it is damaged"),
    "an absurd header": (omar(absurd_header), "the file is truncated"),
    "a pickle": (
        omar(edit("acs_1.npy", lambda values: np.array([None] * 50))),
        "expected numbers in acs_1.npy, found Python objects, which only pickle could read",
    ),
    "text": (
        omar(edit("rews_0.npy", lambda values: values.astype(str))), "expected numbers in rews_0",
    ),
    "complex numbers": (
        omar(edit("rews_0.npy", lambda values: values.astype(complex))), "found dtype complex128",
    ),
    "records": (
        omar(edit("rews_0.npy", lambda values: values.astype([("r", "f8")]))), "expected numbers",
    ),
    "no rows": (omar(edit("obs_0.npy", lambda values: values[:0])), "found shape [0, 6]"),
    "a number for an array": (omar(edit("obs_0.npy", lambda values: values[0, 0])), "shape []"),
    "observations without entries": (
        omar(lambda f: [edit(f"{s}_{i}.npy", lambda v: v[:, 0])(f) for i in range(3)
                        for s in ("obs", "next_obs")]),
        "expected observations [steps, agents, ...]",
    ),
    "rewards of too many": (
        omar(lambda f: [edit(f"rews_{i}.npy", lambda v: np.stack([v] * 4, 1))(f)
                        for i in range(3)]),
        "expected rews_0.npy to rews_2.npy to be [steps], [steps, 3] or [steps, 3, 1]",
    ),
    "NaN in an observation": (
        omar(edit("obs_1.npy", put((31, 2), np.nan))),
        "found nan in obs_0.npy to obs_2.npy at row 31",
    ),
    "NaN in an action": (
        omar(edit("acs_1.npy", put((7, 0), np.nan))),
        "found nan in acs_0.npy to acs_2.npy at row 7",
    ),
    "an infinite reward": (
        omar(edit("rews_1.npy", put(3, np.inf))), "found inf in rews_0.npy to rews_2.npy at row 3",
    ),
    "a number too large for float32": (
        omar(edit("rews_1.npy", put(3, 1e300))), "found inf in rews_0.npy to rews_2.npy at row 3",
    ),
    "NaN for a flag": (
        omar(edit("dones_1.npy", put(3, np.nan))),
        "expected 0 or 1 in dones_0.npy to dones_2.npy, found nan at row 3",
    ),
    "no flag": (omar(edit("dones_1.npy", put(3, 0.5))), "found 0.5 at row 3; give flags"),
    "an action out of bounds": (
        omar(edit("acs_1.npy", put((7, 1), 1.5))),
        "expected actions in [-1, 1] ([-1, 1], assumed), found 1.5 in acs_0.npy to acs_2.npy at "
        "row 7, agent 1; give the bounds by --action-low and --action-high",
    ),
    "a link out of the folder": (omar(link_out), "found obs_1.npy to be a link out of it"),
    "a link to nothing": (
        omar(replace("obs_1.npy", lambda path: path.symlink_to("nowhere.npy"))),
        "expected obs_1.npy in",
    ),
    "a pipe": (omar(replace("obs_1.npy", os.mkfifo)), "expected a file at"),
    "a folder for a file": (omar(replace("obs_1.npy", os.mkdir)), "expected a file at"),
    "several seeds": (parent(omar(several_seeds)), "found seed_0_data, seed_1_data; name the"),
    "no end of an episode": (
        lambda folder: ["omar", write_omar(folder / "mine" / "a", played(size=6))],
        "expected episodes' ends in dones_0.npy to dones_2.npy, found none in 50 rows",
    ),
    # MADiff's
    "lengths that do not add up": (
        paths(edit("path_lengths.npy", lambda values: values[:1])), "to add up to the 15 steps",
    ),
    "an empty path": (
        paths(edit("path_lengths.npy", lambda values: np.array([15, 0]))), "expected whole numbers",
    ),
    "a broken length": (
        paths(edit("path_lengths.npy", lambda values: values + 0.5)), "expected whole numbers",
    ),
    "a length that is NaN": (
        paths(edit("path_lengths.npy", lambda values: values * np.nan)), "expected whole numbers",
    ),
    "an infinite length": (
        paths(edit("path_lengths.npy", lambda values: values * np.inf)), "expected whole numbers",
    ),
    "no lengths": (paths(remove("path_lengths.npy")), "expected path_lengths.npy in"),
    "no observations": (paths(remove("obs.npy")), "expected obs.npy in"),
    "choices of other agents": (
        paths(edit("legals.npy", lambda values: values[:, :1])), "expected legals.npy to be",
    ),
    "choices that are no flags": (
        paths(edit("legals.npy", lambda values: values * 3)), "expected 0 or 1 in legals.npy",
    ),
    "an action that is no choice": (
        paths(edit("actions.npy", put((2, 0), 9))), "expected actions in [0, 3]",
    ),
    "discounts of other steps": (
        paths(edit("discounts.npy", lambda values: values[:3]), discounts=np.ones((15, 2))),
        "expected 15 rows in discounts.npy",
    ),
    "no agents' numbers to strip": (
        paths(ids=False, arguments=["--strip-agent-ids"]), "leave out --strip-agent-ids",
    ),
    "no room for agents' numbers": (
        paths(edit("obs.npy", lambda values: values[..., :2]), arguments=["--strip-agent-ids"]),
        "leave out --strip-agent-ids",
    ),
    "agents' numbers of MPE": (
        lambda folder: ["madiff", omar()(folder)[1], "--strip-agent-ids"], "found MPE's files in",
    ),
    # OMIGA's
    "an array missing": (omiga(lambda a: a.__delitem__("r")), "expected 'r' in"),
    "no HDF5": (lambda folder: ["omiga", omar()(folder)[1] / "obs_0.npy"], "expected an HDF5 file"),
    "half an HDF5": (broken_hdf5, "ant.hdf5: "),
    "a link to another HDF5": (omiga(swap("o", external_link)), "expected 'o' to lie in"),
    "a link within the HDF5": (omiga(swap("o", soft_link)), "expected 'o' to lie in"),
    "values in another HDF5": (omiga(swap("o", virtual)), "found a link to other files"),
    "values in another file": (omiga(swap("o", external_file)), "found a link to other files"),
    "a group for an array": (
        omiga(swap("a", lambda archive, values: archive.create_group("a"))), "found a group",
    ),
    "an HDF5 that is almost nothing": (omiga(swap("o", hollow)), "times the file, found"),
    "ends of other agents": (
        omiga(swap("d", lambda archive, v: archive.__setitem__("d", np.repeat(v, 3, 1)))),
        "expected one value per step, or one per agent, as 'd'",
    ),
    "states that differ": (omiga(states_differ), "leave it out by --no-state"),
    "an HDF5 without values": (
        omiga(swap("o", lambda archive, v: archive.__setitem__("o", h5py.Empty("f8")))),
        "expected values as 'o'",
    ),
    # Vaults
    "no metadata": (vault(remove("metadata.json")), "expected metadata.json in"),
    "metadata that is no JSON": (vault(write("metadata.json", b"{")), "metadata.json: it is"),
    "metadata that is a list": (vault(write("metadata.json", b"[1]")), "structure_shape"),
    "another version": (vault(version=2.0), "expected a Vault of version 1, found 2.0"),
    "a leaf missing": (
        vault(leaves=lambda leaves: leaves.pop("actions")), "expected actions in the Vault",
    ),
    "a leaf that metadata.json only claims": (
        vault(other_metadata(lambda c: [c[f"structure_{what}"]["infos"].update(legals=value)
                             for what, value in (("shape", "(1, 9, 2, 4)"), ("dtype", "bool"))])),
        '"infos.legals./.zarray"',
    ),
    "a leaf of another shape": (
        vault(other_metadata(lambda c: c["structure_shape"].update(rewards="(1, 9, 5)"))),
        "expected leaf rewards of shape",
    ),
    "a leaf of another dtype": (
        vault(other_metadata(lambda c: c["structure_dtype"].update(rewards="float16"))),
        "expected leaf rewards of shape",
    ),
    "a foreign driver": (plain_zarr, "expected an OCDBT database (manifest.ocdbt)"),
    "a foreign driver of one array": (zarr3, '"rewards./.zarray"'),
    "an empty Vault": (vault(index=0), "expected a vault_index of at least 1"),
    "several batches": (two_batches, "expected leaf rewards of shape [1, >= 15, ...]"),
    "an index beyond what is there": (vault(index=2**31 - 1), "times the file"),
    "observations padded with -inf": (
        vault(leaves=lambda leaves: leaves["observations"].__setitem__((..., 4), -np.inf)),
        "found -inf in observations at row 0, which pads shorter observations",
    ),
    "-inf that is no padding": (
        vault(leaves=lambda leaves: leaves["observations"].__setitem__((6, 0, 4), -np.inf),
              arguments=["--strip-padding"]),
        "found others at row 6",
    ),
    "damaged data": (vault(damage_data), "cannot read"),
    "a Vault that leads out of its folder": (
        vault(vault_link_out), "expected a Vault's own folders in",
    ),
    "several Vaults": (two_vaults, "found Good, Poor; name the Vault"),
    # One's own arrays
    "a zip bomb": (arrays(save=bomb), "found 0.32 GB in"),
    "an archive that lies": (arrays(save=lying), "the array is not whole"),
    "objects in an archive": (arrays(save=pickled), "which only pickle could read"),
    "half an archive": (arrays(cut("", 500)), "log.npz: it is damaged"),
    "a flipped bit": (arrays(flip), "log.npz: it is damaged"),
    "a flipped bit, compressed": (arrays(flip, save=np.savez_compressed), "log.npz: it is damaged"),
    "an array that is not there": (
        arrays(mapping="observations: x"), "expected 'x' in",
    ),
    "no array of ours": (
        arrays(leave=["observations", "actions", "rewards", "terminations"]), "log.npz",
    ),
    "no rewards": (arrays(leave=["rewards"]), "expected rewards in the source"),
    "no ends": (arrays(leave=["terminations"]), "expected one of terminations, truncations"),
    "a mapping that is no YAML": (arrays(mapping="a: [\n"), "expected YAML in"),
    "a mapping that runs code": (
        arrays(mapping="observations: !!python/object/apply:os.getcwd []"), "expected YAML in",
    ),
    "a mapping of something unknown": (arrays(mapping="colours: c"), "found 'colours': 'c'"),
    "a mapping to a number": (arrays(mapping="observations: 3"), "found 'observations': 3"),
    "a mapping that is a list": (arrays(mapping="- a"), "found list"),
    "a number of an episode that is none": (
        arrays(mapping="observations: observations\nactions: actions\nrewards: rewards\n"
                       "episodes: id", save=numbered),
        "expected whole numbers in id, found inf at row 4",
    ),
    "no file": (lambda folder: ["arrays", folder / "x.npz"], "expected x.npz in"),
    "an exported dataset": (
        lambda folder: ["arrays", exported()(folder)[1]], "import it by `benchmarl-ssd import hdf5",
    ),
    # Exported datasets
    "an HDF5 of another": (
        lambda folder: ["hdf5", omiga(lambda archive: None)(folder)[1]],
        "expected a file that `benchmarl-ssd export` wrote",
    ),
    "an export without an array": (
        exported(hdf5_edit(lambda a: a.__delitem__("agents/action"))), "expected 'agents/action'",
    ),
    "an export with other metadata": (
        exported(hdf5_edit(other_text)), "expected int at counts.transitions",
    ),
    "an export with NaN": (
        exported(hdf5_edit(lambda a: a["agents/observation"].__setitem__((3, 0, 0), np.nan))),
        "found nan in agents/observation at transition 3",
    ),
    "half an export": (exported(lambda file: os.truncate(file, 3000)), "d.hdf5: "),
    # The command line
    "no such format": (lambda folder: ["rlds", omar()(folder)[1]], "found 'rlds'; choose one"),
    "no such task": (
        lambda folder: [*omar()(folder), "--task", "mpe/wrold"], "did you mean mpe/world?",
    ),
    "a task's options without a task": (
        lambda folder: [*omar()(folder), "n_agents=3"], "expected logged/NAME without options",
    ),
    "a task's name": (lambda folder: [*omar()(folder), "--task", "logged/A b"], "rename it"),
    "a task of more agents": (
        lambda folder: ["omar", write_omar(folder / "a", played(n=2)), "--task", "mpe/world"],
        "expected 3 agents as mpe/world has, found 2 in the source",
    ),
    "a task of other actions": (
        lambda folder: [*paths()(folder), "--task", "mpe/world"],
        "expected continuous actions as mpe/world",
    ),
    "a task that sees something else": (
        lambda folder: [*omar()(folder), "--task", "mpe/cooperative_navigation"],
        "expected observations [3, 18] as mpe/cooperative_navigation gives them, found [3, 6]",
    ),
    "a group that the task lacks": (
        lambda folder: [*omar()(folder), "--task", "mpe/world", "--group", "prey"],
        "expected --group to be one of agents",
    ),
    "a mapping for OMAR": (
        lambda folder: [*omar()(folder), "--mapping", "x.yaml"], "--mapping with arrays only",
    ),
    "agents' numbers of OMAR": (
        lambda folder: [*omar()(folder), "--strip-agent-ids"], "with madiff only",
    ),
    "a task for an export": (
        lambda folder: [*exported()(folder), "--task", "mpe/world"], "expected no --task with hdf5",
    ),
    "references for an export": (
        lambda folder: [*exported()(folder), "--reference-expert", "1"], "no --reference-expert",
    ),
    "a last step of an export": (
        lambda folder: [*exported()(folder), "--last-step", "repeat"], "expected no --last-step",
    ),
    "a bound that is no number": (
        lambda folder: [*omar()(folder), "--action-low", "low"], "as --action-low, found 'low'",
    ),
    "bounds of other actions": (
        lambda folder: [*omar()(folder), "--action-low", "-1,-1,-1"], "for actions of shape [3, 2]",
    ),
    "bounds the wrong way": (
        lambda folder: [*omar()(folder), "--action-low", "1", "--action-high", "-1"], "low <= high",
    ),
    "a bound that is infinite": (
        lambda folder: [*omar()(folder), "--action-high", "inf"], "finite action bounds",
    ),
    "another last step": (
        lambda folder: [*omar()(folder), "--last-step", "keep"], "drop, repeat, found 'keep'",
    ),
    "a limit of no steps": (
        lambda folder: [*omar()(folder), "--episode-length", "0"], "--episode-length",
    ),
    "a limit of one step": (
        lambda folder: [*paths()(folder), "--episode-length", "1"],
        "episodes of at least two steps",
    ),
    "a reserved group": (
        lambda folder: [*omar()(folder), "--group", "next"],
        "expected groups with agents and names",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_is_malformed_is_one_line_and_writes_nothing(tmp_path, run, kind):
    make, message = MALFORMED[kind]
    (tmp_path / "source").mkdir()
    arguments = make(tmp_path / "source")
    if "--task" not in arguments and arguments[0] != "hdf5":
        arguments += NOWHERE
    before = fingerprint(tmp_path)
    code, said, error = run("import", *arguments, "--out", tmp_path / "new" / "dataset")
    lines = error.splitlines()
    assert (code, len(lines)) == (1, 1), error
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert (said, len(lines[0]) < 600) == ("", True)
    assert fingerprint(tmp_path) == before


def test_there_are_enough_malformed_sources():
    assert len(MALFORMED) > 100


@pytest.mark.parametrize(
    ("make", "package", "extra"),
    [(omiga(lambda archive: None), "h5py", "hdf5"), (vault(), "tensorstore", "vault")],
)
def test_a_package_that_is_missing_is_named(tmp_path, run, monkeypatch, make, package, extra):
    arguments = make(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    code, _, error = run("import", *arguments, *NOWHERE, "--out", tmp_path / "out")
    assert (code, len(error.splitlines())) == (1, 1)
    assert f"expected {package} for" in error
    assert f"pip install 'benchmarl-ssd[{extra}]'" in error


def test_a_task_is_needed(tmp_path, run):
    code, _, error = run("import", *omar()(tmp_path), "--out", tmp_path / "out")
    assert (code, "expected --task ENV/NAME" in error) == (1, True)


def test_nothing_is_written_into_the_source(tmp_path, run):
    arguments = omar()(tmp_path)
    before = fingerprint(tmp_path)
    code, _, error = run("import", *arguments, *NOWHERE, "--out", arguments[1] / "out")
    assert (code, "expected --out outside of" in error) == (1, True)
    assert fingerprint(tmp_path) == before


def test_nothing_is_overwritten(tmp_path, run):
    (tmp_path / "out").mkdir()
    code, _, error = run("import", *omar()(tmp_path), *NOWHERE, "--out", tmp_path / "out")
    assert (code, "nothing is yet" in error) == (1, True)
    assert list((tmp_path / "out").iterdir()) == []


def test_what_may_not_be_read(tmp_path, run):
    arguments = omar()(tmp_path)
    (arguments[1] / "obs_1.npy").chmod(0)
    if os.geteuid() == 0:  # root may read anything: be someone else for a while
        for folder in (*tmp_path.parents, tmp_path, tmp_path / "simple_spread", arguments[1]):
            if not folder.stat().st_mode & 0o001:
                folder.chmod(folder.stat().st_mode | 0o055)
        os.seteuid(65534)
    try:
        code, _, error = run("import", *arguments, *NOWHERE, "--out", tmp_path / "out")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert code == 1
    assert error.startswith("error: cannot read")
    assert "obs_1.npy: Permission denied" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------- disk full, two writers at once

FORK = multiprocessing.get_context("fork")


def in_child(folder, name, arguments, limit=None, gate=None):
    """Run the command in a child of its own; its stderr goes to a file."""

    def command():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        if gate is not None:
            gate.wait(60)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            main([str(argument) for argument in arguments])
        finally:
            sys.stderr.flush()

    process = FORK.Process(target=command)
    process.start()
    return process


@pytest.mark.parametrize("command", ["import", "export", "import hdf5"])
def test_a_full_disk_leaves_nothing(tmp_path, command):
    data = played(lengths=(25,) * 200, n=3, size=18)
    source = write_omar(tmp_path / "simple_spread" / "seed_0_data", data)
    arguments = ["import", "omar", source, *NOWHERE, "--out"]
    target = tmp_path / "full" / "new"
    if command != "import":
        first = in_child(tmp_path, "first", [*arguments, tmp_path / "dataset"])
        first.join(120)
        assert first.exitcode == 0
        arguments = ["export", tmp_path / "dataset", "--out"]
        target.parent.mkdir()
        if command == "import hdf5":
            export(tmp_path / "dataset", tmp_path / "d.hdf5", progress=False)
            arguments = ["import", "hdf5", tmp_path / "d.hdf5", "--out"]
    process = in_child(tmp_path, "error", [*arguments, target], limit=300_000)
    process.join(120)
    error = (tmp_path / "error").read_text()
    assert process.exitcode == 1, error
    assert len(error.splitlines()) == 1, error
    assert error.startswith(f"error: cannot write {target}: ")
    assert not target.parent.exists() or list(target.parent.iterdir()) == []


def test_two_writers_at_once(tmp_path):
    data = played(lengths=(25,) * 400, n=3, size=18)
    source = write_omar(tmp_path / "simple_spread" / "seed_0_data", data)
    arguments = ["import", "omar", source, *NOWHERE, "--out", tmp_path / "both" / "dataset"]
    gate = FORK.Barrier(2)
    processes = [in_child(tmp_path, f"error{i}", arguments, gate=gate) for i in range(2)]
    for process in processes:
        process.join(120)
    codes = [process.exitcode for process in processes]
    assert sorted(codes) == [0, 1]
    error = (tmp_path / f"error{codes.index(1)}").read_text()
    assert error.startswith("error: expected")
    assert "nothing is yet" in error
    assert [path.name for path in (tmp_path / "both").iterdir()] == ["dataset"]
    assert len(OfflineDataset(tmp_path / "both" / "dataset", check="full")) == 10_000


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch, end):
    data = played(lengths=(25,) * 2000, n=3, size=18)
    source = write_omar(tmp_path / "simple_spread" / "seed_0_data", data)
    convert = streaming.converted

    def slowly(*arguments):
        time.sleep(0.05)
        return convert(*arguments)

    monkeypatch.setattr(streaming, "PIECE", 100_000)  # the child inherits both
    monkeypatch.setattr(streaming, "converted", slowly)
    arguments = ["import", "omar", source, *NOWHERE, "--out", tmp_path / "new" / "dataset"]
    process = in_child(tmp_path, "error", arguments)
    while not list(tmp_path.rglob("action.memmap")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, end)
    process.join(60)
    error = (tmp_path / "error").read_text()
    assert (process.exitcode, error) == (1, "error: interrupted; nothing was written\n")
    assert not (tmp_path / "new").exists()
