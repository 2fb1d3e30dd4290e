"""How much memory an import takes: a source of N transitions in OMAR's format, made up, imported.

    python examples/data/import_memory.py --transitions 10_000_000 --json import_memory.json

The source and the dataset lie in a temporary folder, about 1 GB per million transitions together.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

AGENTS, OBSERVATION, ACTION, LENGTH = 3, 18, 2, 25
BLOCK = 4_000 * LENGTH
IMPORT = "from benchmarl_ssd.cli import main; main()"


def write_source(folder, transitions):
    """Cooperative Navigation's shapes in float32, written block by block; its size in bytes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    widths = {"obs": (OBSERVATION,), "next_obs": (OBSERVATION,), "acs": (ACTION,), "rews": (),
              "dones": ()}  # fmt: skip
    block = min(BLOCK, transitions)
    observations = random.normal(size=(block + 1, OBSERVATION)).astype(np.float32)
    values = {
        "obs": observations[:-1],
        "next_obs": observations[1:],
        "acs": random.uniform(-1, 1, (block, ACTION)).astype(np.float32),
        "rews": random.normal(size=block).astype(np.float32),
        "dones": np.zeros(block, dtype=np.float32),
    }
    for name, width in widths.items():
        header = {"descr": "<f4", "fortran_order": False, "shape": (transitions, *width)}
        for agent in range(AGENTS):
            # Not mapped: a child's peak counts what its parent had in memory when it was born.
            with (folder / f"{name}_{agent}.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, transitions, block):
                    rows = values[name][: min(block, transitions - start)]
                    if "obs" in name:  # every block differs
                        rows = rows + np.float32(start / transitions)
                    file.write(np.ascontiguousarray(rows).data)
    return sum(file.stat().st_size for file in folder.iterdir())


def run_import(source, out):
    """Import in a process of its own; its seconds and its peak resident memory in bytes."""
    command = [sys.executable, "-c", IMPORT, "import", "omar", str(source), "--out", str(out),
               "--task", "mpe/cooperative_navigation"]  # fmt: skip
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the import failed with exit code {process.returncode}")
    return time.monotonic() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(transitions):
    """Make a source of that many transitions, import it, and remove both."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "simple_spread" / "random" / "seed_0_data"
        size = write_source(source, transitions)
        out = Path(folder) / "dataset"
        seconds, memory = run_import(source, out)
        metadata = json.loads((out / "metadata.json").read_text())
        assert metadata["counts"]["transitions"] == transitions
        return {
            "transitions": transitions,
            "episodes": metadata["counts"]["episodes"],
            "source_bytes": size,
            "dataset_bytes": sum(entry["bytes"] for entry in metadata["tensors"].values()),
            "peak_resident_bytes": memory,
            "seconds": round(seconds, 1),
            "versions": metadata["source"]["versions"],
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write the result there")
    options = parser.parse_args()
    small = measure(1_000 * LENGTH)
    result = measure(options.transitions)
    result["peak_resident_bytes_of_25_000"] = small["peak_resident_bytes"]
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if options.json:
        options.json.write_text(text)


if __name__ == "__main__":
    main()
