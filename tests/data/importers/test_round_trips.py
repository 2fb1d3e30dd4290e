"""What is imported is what the source holds, in every format."""

import numpy as np
import pytest
import torch
from import_sources import (
    own_arrays,
    played,
    vault_leaves,
    write_omar,
    write_omiga,
    write_paths,
    write_vault,
)

from benchmarl_ssd.data import OfflineDataset, from_arrays
from benchmarl_ssd.data.importers import ImportOptions, open_source, streaming, write_table


def imported(format, source, out, last_step="drop", **options):
    writing = {k: options.pop(k) for k in ("strip_padding", "bounds") if k in options}
    with open_source(format, source, ImportOptions(**options)) as table:
        write_table(table, out, last_step=last_step, source={"format": format}, **writing)
    return OfflineDataset(out, check="full")


def assert_holds(dataset, data, keep=None, terminated=(), known_next=None):
    """The dataset holds these steps of what was played, and the ends that are expected."""
    keep = np.arange(len(data["end"])) if keep is None else keep
    known_next = data["end"] * False if known_next is None else known_next
    stored = dataset.data
    assert len(stored) == len(keep)
    float32 = {
        ("agents", "observation"): data["observation"],
        ("next", "agents", "reward"): data["reward"][..., None],
    }
    if "state" in data:
        float32["state",] = data["state"]
    discrete = data["action"].dtype.kind == "i"
    if not discrete:
        float32["agents", "action"] = data["action"]
    for key, values in float32.items():
        assert stored[key].dtype == torch.float32
        np.testing.assert_array_equal(stored[key].numpy(), values[keep].astype(np.float32))
    if discrete:
        assert stored["agents", "action"].dtype == torch.int64
        np.testing.assert_array_equal(stored["agents", "action"].numpy(), data["action"][keep])
    inside = known_next[keep] | ~data["end"][keep]
    for name, key in (("observation", ("agents",)), ("state", ()), ("action_mask", ("agents",))):
        if name in data:
            after = stored[("next", *key, name)].numpy()
            expected = data[f"next_{name}"][keep].astype(after.dtype)
            np.testing.assert_array_equal(after[inside], expected[inside])
            before = stored[(*key, name)].numpy()
            np.testing.assert_array_equal(after[~inside], before[~inside])
    ends = np.flatnonzero(stored["next", "terminated"].numpy().flatten())
    assert ends.tolist() == list(terminated)


# ------------------------------------------------------------------------------ OMAR, MADiff


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_omar(tmp_path, dtype, order):
    data = played()
    folder = tmp_path / "simple_spread" / "expert" / "seed_0_data"
    write_omar(folder, data, dtype=np.dtype(dtype), order=order)
    dataset = imported("omar", folder, tmp_path / "out")
    every = np.ones(50, dtype=bool)
    data |= {name: values.astype(dtype) for name, values in data.items() if name != "end"}
    assert_holds(dataset, data, known_next=every)
    assert dataset.metadata.counts == {
        "transitions": 50, "episodes": 2, "terminated": 0, "truncated": 2,
    }  # fmt: skip
    derivation = dataset.metadata.source["derivation"]
    assert derivation["episode_length"] == 25
    assert derivation["ends"] == {"marked": 0, "time limit": 2, "unfinished": 0}
    assert (derivation["marks"], derivation["jumps"]) == (0, 0)
    assert dataset.metadata.source["folder"] == "expert/seed_0_data"


def test_omar_by_the_folder_above_and_the_task(tmp_path):
    folder = write_omar(tmp_path / "mine" / "seed_3_data", played())
    one = imported("omar", folder, tmp_path / "a", task="mpe/cooperative_navigation")
    other = imported("omar", folder.parent, tmp_path / "b", episode_length=25)
    assert one.metadata.checksum == other.metadata.checksum
    assert one.metadata.episodes == 2


def test_omar_half_cheetah_has_states_and_terminations(tmp_path):
    data = played(lengths=(30, 1000, 12), n=2, size=8, actions=3, state=17)
    dones = np.repeat(data["end"][:, None], 2, axis=1)
    folder = write_omar(tmp_path / "HalfCheetah-v2" / "medium" / "seed_1_data", data, dones=dones)
    dataset = imported("omar", folder, tmp_path / "out")
    # The second one ends at the time limit of 1000 steps, and so does not terminate.
    assert_holds(dataset, data, terminated=[29, 1041], known_next=data["end"] | True)
    assert "state" not in imported("omar", folder, tmp_path / "none", state=False).metadata.tensors


@pytest.mark.parametrize("above", ["mpe_and_mujoco", "mpetrov", "mpe"])
def test_omar_limit_is_of_the_tasks_own_folder(above, tmp_path):
    data = played(lengths=(30, 40), n=2, size=8, actions=3, state=17)
    dones = np.repeat(data["end"][:, None], 2, axis=1)
    folder = write_omar(tmp_path / above / "HalfCheetah-v2" / "seed_0_data", data, dones=dones)
    assert imported("omar", folder, tmp_path / "out").metadata.episodes == 2


def test_omar_that_is_out_of_order_is_reported(tmp_path):
    data = played()
    order = np.random.default_rng(0).permutation(50)
    shuffled = {n: v[order] for n, v in data.items() if n != "lengths"}
    folder = write_omar(tmp_path / "simple_tag" / "random" / "seed_0_data", shuffled)
    derivation = imported("omar", folder, tmp_path / "out").metadata.source["derivation"]
    assert derivation["jumps"] > 40


def test_an_unfinished_last_episode_is_truncated(tmp_path):
    folder = write_omar(tmp_path / "simple_world" / "seed_0_data", played(lengths=(25, 7)))
    metadata = imported("omar", folder, tmp_path / "out").metadata
    assert metadata.counts["truncated"] == 2
    assert metadata.source["derivation"]["ends"] == {
        "marked": 0, "time limit": 1, "unfinished": 1,
    }  # fmt: skip


def test_madiff_mpe(tmp_path):
    data = played(lengths=(25, 10, 25))
    dones = np.zeros((60, 3))
    dones[34] = 1
    source = tmp_path / "simple_spread" / "medium" / "seed_0_data"
    folder = write_omar(source, data, dones=dones, next_obs=False)
    dataset = imported("madiff", folder, tmp_path / "out")
    # What came after steps 24 and 59 is unknown: the limit truncates there.
    keep = np.setdiff1d(np.arange(60), [24, 59])
    expected = data | {"end": np.zeros(60, dtype=bool)}
    expected["end"][34] = True
    assert_holds(dataset, expected, keep=keep, terminated=[33])
    assert dataset.metadata.source["derivation"]["dropped_steps"] == 2
    lengths = dataset.metadata.episode_length
    assert (lengths["min"], lengths["max"]) == (10, 24)
    repeated = imported("madiff", folder, tmp_path / "repeat", last_step="repeat")
    assert_holds(repeated, data, terminated=[34])
    assert repeated.metadata.counts["truncated"] == 2
    assert repeated.metadata.source["derivation"]["last_step"] == "repeat"


def test_madiff_mamujoco(tmp_path):
    data = played(lengths=(40, 1000), n=2, size=9, actions=4)
    folder = write_paths(tmp_path / "2ant" / "Good", data)
    dataset = imported("madiff", folder, tmp_path / "out", strip_agent_ids=True)
    # A path of 1000 steps ends by the time limit; its last step leads nowhere known.
    assert_holds(dataset, data, keep=np.arange(1039), terminated=[39])
    assert dataset.metadata.source["agent_ids"] == "stripped"
    with_ids = imported("madiff", folder, tmp_path / "ids")
    ids = with_ids.data["agents", "observation"][..., :2]
    assert (ids == torch.eye(2)).all()
    assert with_ids.data["agents", "observation"].shape == (1039, 2, 11)
    assert with_ids.metadata.source["agent_ids"] == "first in observations"


def test_madiff_discounts_tell_what_terminated(tmp_path):
    data = played(lengths=(8, 6), n=2, size=9)
    discounts = np.ones((14, 2))
    discounts[7] = 0
    folder = write_paths(tmp_path / "4ant" / "Poor", data, discounts=discounts)
    dataset = imported("madiff", folder, tmp_path / "out", strip_agent_ids=True)
    assert_holds(dataset, data, keep=np.arange(13), terminated=[7])
    assert dataset.metadata.counts["truncated"] == 1


def test_madiff_smac(tmp_path):
    data = played(lengths=(9, 14, 5), n=4, size=12, state=20, choices=7)
    folder = write_paths(tmp_path / "3m" / "Good", data)
    dataset = imported("madiff", folder, tmp_path / "out", strip_agent_ids=True)
    assert_holds(dataset, data, terminated=[8, 22, 27])
    mask = dataset.data["agents", "action_mask"]
    assert mask.dtype == torch.bool
    np.testing.assert_array_equal(mask.numpy(), data["action_mask"])
    assert dataset.metadata.action_bounds["agents"] == {"low": [0] * 4, "high": [6] * 4}


# ------------------------------------------------------------------------------ OMIGA, Vaults


@pytest.mark.parametrize("shared", [True, False])
def test_omiga(tmp_path, shared):
    data = played(lengths=(12, 20), n=2, size=11, actions=4, state=23)
    source = write_omiga(tmp_path / "Ant-v2-2x4-expert.hdf5", data, shared)
    if shared:
        data["reward"] = np.repeat(data["reward"][:, :1], 2, axis=1)
    dataset = imported("omiga", source, tmp_path / "out")
    assert_holds(dataset, data, terminated=[11, 31])
    limited = imported("omiga", source, tmp_path / "limit", episode_length=20)
    assert_holds(limited, data, keep=np.arange(31), terminated=[11])
    assert dataset.metadata.source["derivation"]["episode_length"] == 1000


def test_vault(tmp_path):
    data = played(lengths=(12, 20, 8), n=2, size=11, actions=4, state=23)
    truncated = data["end"] & (np.arange(40) == 31)
    source = write_vault(tmp_path / "2ant.vlt" / "Good", vault_leaves(data, truncated))
    dataset = imported("vault", source, tmp_path / "out")
    assert_holds(dataset, data, keep=np.delete(np.arange(40), 31), terminated=[11, 38])
    again = imported("vault", source.parent, tmp_path / "again")
    assert again.metadata.checksum == dataset.metadata.checksum
    assert dataset.metadata.source["vault"] == "2ant.vlt/Good"


def test_vault_of_choices(tmp_path):
    data = played(lengths=(9, 7), n=3, size=5, choices=6)
    source = write_vault(tmp_path / "3m #1 ä%20?.vlt" / "Poor", vault_leaves(data))
    dataset = imported("vault", source, tmp_path / "out")
    assert_holds(dataset, data, terminated=[8, 15])


def test_vault_with_padding_is_stripped_when_asked(tmp_path):
    data = played(lengths=(10,), n=3, size=8)
    leaves = vault_leaves(data)
    leaves["observations"][:, :, 6:] = -np.inf
    leaves["observations"][:, 2, 4:] = -np.inf
    source = write_vault(tmp_path / "simple_tag.vlt" / "Expert", leaves)
    with pytest.raises(ValueError, match=r"found -inf in observations at row 0, .*--strip-padding"):
        imported("vault", source, tmp_path / "out")
    dataset = imported("vault", source, tmp_path / "out", strip_padding=True)
    observation = data["observation"][..., :6].copy()
    observation[:, 2, 4:] = 0
    expected = data | {"observation": observation}
    expected["next_observation"] = np.concatenate([observation[1:], observation[-1:]])
    assert_holds(dataset, expected, terminated=[9])
    assert dataset.metadata.source["derivation"]["padding"] == {
        "observation": "-inf: 2 entries of all agents left out, 2 set to zero"
    }


def test_vault_written_by_flashbax(tmp_path):
    flashbax = pytest.importorskip("flashbax")
    jax = pytest.importorskip("jax")
    from flashbax.vault import Vault

    data = played(lengths=(12, 8), n=2, size=5, state=4)
    leaves = vault_leaves(data)
    step = {name: values[0] for name, values in leaves.items() if "." not in name}
    step["infos"] = {"state": leaves["infos.state"][0]}
    buffer = flashbax.make_flat_buffer(
        max_length=64, min_length=1, sample_batch_size=1, add_batch_size=1
    )
    state = buffer.init(step)
    vault = Vault("mine.vlt", state.experience, rel_dir=str(tmp_path), vault_uid="Good")
    for t in range(20):
        now = jax.tree.map(lambda values, t=t: values[t][None], {
            **{name: values for name, values in leaves.items() if "." not in name},
            "infos": {"state": leaves["infos.state"]},
        })  # fmt: skip
        state = buffer.add(state, now)
    vault.write(state)
    dataset = imported("vault", tmp_path / "mine.vlt" / "Good", tmp_path / "out")
    assert_holds(dataset, data, terminated=[11, 19])


# ------------------------------------------------------------------------------- own arrays


@pytest.mark.parametrize("kind", ["npz", "compressed npz", "fortran npz", "hdf5"])
def test_own_arrays(tmp_path, kind):
    data = played(lengths=(5, 9))
    arrays = own_arrays(data)
    source = tmp_path / "log"
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(source, "w") as archive:
            for name, values in arrays.items():
                archive[f"run/{name}"] = values
    else:
        save = np.savez_compressed if "compressed" in kind else np.savez
        if "fortran" in kind:
            arrays = {name: np.asfortranarray(values) for name, values in arrays.items()}
        with source.open("wb") as file:
            save(file, **arrays)
    prefix = "run/" if kind == "hdf5" else ""
    mapping = {name: prefix + name for name in arrays}
    dataset = imported("arrays", source, tmp_path / "out", mapping=mapping)
    assert_holds(dataset, data, terminated=[4, 13])
    same = from_arrays(tmp_path / "same", **arrays)
    assert same.checksum == dataset.metadata.checksum


def test_own_arrays_per_agent_with_episode_numbers(tmp_path):
    data = played(lengths=(5, 1, 9), n=2, size=3, state=4)
    arrays = {f"o{i}": data["observation"][:, i] for i in range(2)}
    arrays |= {f"a{i}": data["action"][:, i] for i in range(2)}
    arrays["r"], arrays["s"] = data["reward"].mean(1), data["state"]
    arrays["id"] = np.repeat([7.0, 3.0, 7.0], [5, 1, 9])
    np.savez(tmp_path / "log.npz", **arrays)
    mapping = {
        "observations": ["o0", "o1"], "actions": ["a0", "a1"], "rewards": "r", "state": "s",
        "episodes": "id",
    }  # fmt: skip
    dataset = imported("arrays", tmp_path / "log.npz", tmp_path / "out", mapping=mapping)
    data["reward"] = np.repeat(data["reward"].mean(1, keepdims=True), 2, axis=1)
    # Each episode loses its last step, the one with a single step is gone.
    assert_holds(dataset, data, keep=np.delete(np.arange(15), [4, 5, 14]))
    assert dataset.metadata.counts["episodes"] == 2
    assert dataset.metadata.counts["truncated"] == 2


def test_arrays_with_all_that_comes_after(tmp_path):
    data = played(lengths=(5, 9), n=2, size=3, state=4, choices=3)
    metadata = from_arrays(
        tmp_path / "out",
        observations=torch.from_numpy(data["observation"]),
        actions=data["action"],
        rewards=data["reward"],
        truncations=data["end"].astype(np.uint8),
        terminations=np.zeros((14, 2)),
        state=data["state"],
        action_masks=data["action_mask"],
        next_observations=data["next_observation"],
        next_state=data["next_state"],
        next_action_masks=data["next_action_mask"],
        action_high=4,
        task="logged/robots",
        agents=["left", "right"],
        group="robots",
        references={"random": 0.0, "expert": 2.0},
        source={"logger": "mine"},
    )
    assert metadata.groups == {"robots": ["left", "right"]}
    assert metadata.action_bounds["robots"] == {"low": [0, 0], "high": [4, 4]}
    assert metadata.task == {"environment": "logged", "name": "robots", "config": {}}
    assert metadata.references == {"random": 0.0, "expert": 2.0}
    assert (metadata.source["logger"], metadata.source["kind"]) == ("mine", "import")
    dataset = OfflineDataset(tmp_path / "out")
    after = dataset.data["next", "robots", "observation"].numpy()
    np.testing.assert_array_equal(after, data["next_observation"].astype(np.float32))
    assert metadata.counts["truncated"] == 2


def test_arrays_of_the_caller_stay_as_they_are(tmp_path):
    arrays = own_arrays(played(lengths=(5, 9)))
    arrays["observations"] = arrays["observations"].astype(np.float32)
    before = {name: values.copy() for name, values in arrays.items()}
    for values in arrays.values():
        values.flags.writeable = False
    from_arrays(tmp_path / "out", **arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize("format", ["omar", "madiff", "paths", "omiga", "vault", "npz"])
def test_pieces_do_not_matter(tmp_path, monkeypatch, format):
    data = played(lengths=(25, 17, 3, 25), n=2, size=6, state=3)
    truncated = data["end"] & (np.arange(70) > 50)
    make = {
        "omar": lambda f: write_omar(f, data, dones=np.stack([data["end"]] * 2, axis=1)),
        "madiff": lambda f: write_omar(f, data, dones=np.zeros((70, 2)), next_obs=False),
        "paths": lambda f: write_paths(f, data),
        "omiga": lambda f: write_omiga(f.parent / "a.hdf5", data),
        "vault": lambda f: write_vault(f, vault_leaves(data, truncated)),
    }
    if format == "npz":
        source = tmp_path / "log.npz"
        np.savez_compressed(source, **own_arrays(data), state=data["state"])
    else:
        source = make[format](tmp_path / "source")
    name = {"paths": "madiff", "npz": "arrays"}.get(format, format)
    whole = imported(name, source, tmp_path / "whole", episode_length=25)
    for rows in (1, 7, 30):
        monkeypatch.setattr(streaming, "PIECE", rows * 400)
        pieces = imported(name, source, tmp_path / f"pieces{rows}", episode_length=25)
        assert pieces.metadata.checksum == whole.metadata.checksum
        assert pieces.metadata.source["derivation"] == whole.metadata.source["derivation"]
