"""Builds small sources in the formats of the field, and what a dataset of them must hold."""

from __future__ import annotations

import json

import numpy as np


def played(lengths=(25, 25), n=3, size=18, actions=2, state=None, choices=None, seed=0):
    """Episodes with what comes after each step, as arrays over all steps in time order."""
    random = np.random.default_rng(seed)
    parts = []
    for length in lengths:
        observed = {"observation": random.normal(size=(length + 1, n, size))}
        if state:
            observed["state"] = random.normal(size=(length + 1, state))
        if choices:
            mask = random.random((length + 1, n, choices)) < 0.5
            mask[..., 0] = True
            observed["action_mask"] = mask
        part = {name: values[:-1] for name, values in observed.items()}
        part |= {f"next_{name}": values[1:] for name, values in observed.items()}
        part["action"] = random.uniform(-1, 1, (length, n, actions))
        if choices:
            part["action"] = random.integers(0, choices, (length, n))
        part["reward"] = random.normal(size=(length, n))
        parts.append(part)
    data = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    data["end"] = np.zeros(sum(lengths), dtype=bool)
    data["end"][np.cumsum(lengths) - 1] = True
    data["lengths"] = np.array(lengths)
    return data


def write_omar(folder, data, dones=None, dtype=np.float64, order="C", next_obs=True):
    """OMAR's layout; MADiff's of MPE is the same without ``next_obs``."""
    folder.mkdir(parents=True)
    count, n = data["observation"].shape[:2]
    dones = np.zeros((count, n)) if dones is None else dones
    for i in range(n):
        files = {
            "obs": data["observation"][:, i],
            "acs": data["action"][:, i],
            "rews": data["reward"][:, i],
            "dones": dones[:, i],
        }
        if next_obs:
            files["next_obs"] = data["next_observation"][:, i]
        if "state" in data:
            files |= {"states": data["state"], "next_states": data["next_state"]}
        for name, values in files.items():
            np.save(folder / f"{name}_{i}.npy", np.asarray(values, dtype=dtype, order=order))
    return folder


def write_paths(folder, data, ids=True, discounts=None):
    """MADiff's layout of MaMuJoCo and SMAC."""
    folder.mkdir(parents=True)
    observation = data["observation"]
    if ids:
        n = observation.shape[1]
        numbers = np.broadcast_to(np.eye(n), (len(observation), n, n))
        observation = np.concatenate([numbers, observation], axis=-1)
    np.save(folder / "obs.npy", observation.astype(np.float32))
    np.save(folder / "actions.npy", data["action"])
    np.save(folder / "rewards.npy", data["reward"].astype(np.float32))
    np.save(folder / "path_lengths.npy", data["lengths"])
    if discounts is not None:
        np.save(folder / "discounts.npy", discounts.astype(np.float32))
    if "action_mask" in data:
        np.save(folder / "legals.npy", data["action_mask"])
    if "state" in data:
        np.save(folder / "states.npy", data["state"].astype(np.float32))
    return folder


def write_omiga(file, data, shared_reward=True):
    """OMIGA's HDF5."""
    import h5py

    n = data["observation"].shape[1]
    with h5py.File(file, "w") as archive:
        archive["s"] = np.repeat(data["state"][:, None], n, axis=1)
        archive["o"] = data["observation"]
        archive["a"] = data["action"]
        archive["r"] = data["reward"][:, :1] if shared_reward else data["reward"][..., None]
        archive["d"] = data["end"][:, None].astype(np.float64)
    return file


def vault_spec(folder, path):
    """Where flashbax puts an array of a Vault."""
    base = {"driver": "file", "path": f"{folder}/"}
    kvstore = {"driver": "ocdbt", "base": base, "path": path}
    return {"driver": "zarr", "kvstore": kvstore, "context": {"file_io_sync": False}}


def vault_leaves(data, truncated=None):
    """A Vault's leaves of what was played, without the batch axis."""
    n = data["observation"].shape[1]
    truncated = np.zeros_like(data["end"]) if truncated is None else truncated
    leaves = {
        "observations": data["observation"].astype(np.float32),
        "actions": data["action"].astype(np.int64 if "action_mask" in data else np.float32),
        "rewards": data["reward"].astype(np.float32),
        "terminals": np.repeat((data["end"] & ~truncated)[:, None], n, axis=1),
        "truncations": np.repeat(truncated[:, None], n, axis=1),
    }
    if "state" in data:
        leaves["infos.state"] = data["state"].astype(np.float32)
    if "action_mask" in data:
        leaves["infos.legals"] = data["action_mask"]
    return leaves


def write_vault(folder, leaves, index=None, version=1.2, spare=7):
    """flashbax's layout: zarr v2 arrays of 10^13 steps in an OCDBT database, gzipped."""
    import tensorstore

    folder.mkdir(parents=True)
    count = len(leaves["observations"])
    shapes, dtypes = {}, {}
    for name, values in leaves.items():
        at_shape, at_dtype = shapes, dtypes
        *parents, last = name.split(".")
        for parent in parents:
            at_shape, at_dtype = at_shape.setdefault(parent, {}), at_dtype.setdefault(parent, {})
        at_shape[last] = str((1, 100, *values.shape[1:]))
        at_dtype[last] = values.dtype.name
        spec = vault_spec(folder, f"{name}.")
        spec["metadata"] = {"compressor": {"id": "gzip", "level": 5}}
        array = tensorstore.open(
            spec, shape=(1, 10**13, *values.shape[1:]), dtype=values.dtype.name, create=True
        ).result()
        array[0, :count].write(values).result()
        # Beyond the index lies what was written before, and does not count.
        array[0, count : count + spare].write(np.ones_like(values[:1])).result()
    content = {"version": version, "structure_shape": shapes, "structure_dtype": dtypes}
    (folder / "metadata.json").write_text(json.dumps(content))
    array = tensorstore.open(
        vault_spec(folder, "vault_index"), shape=(1,), dtype="int32", create=True
    ).result()
    array.write(np.array([count if index is None else index], dtype=np.int32)).result()
    return folder


def own_arrays(data):
    """Arrays under our own names."""
    return {
        "observations": data["observation"],
        "actions": data["action"],
        "rewards": data["reward"],
        "terminations": data["end"],
    }
