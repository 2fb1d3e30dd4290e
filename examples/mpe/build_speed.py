"""Measure how long recipes take to build, and how much memory, whatever their size.

    python examples/mpe/build_speed.py --output examples/mpe/results/build_speed.json

Every build is a process of its own, ``benchmarl-ssd build``, so that its time includes the start of
Python and its memory is its own. The data goes to a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPES = ("cooperative_navigation/expert", "predator_prey/medium", "world/medium-replay")


def measure_build(id: str, transitions: int) -> dict[str, float]:
    """Build once; seconds on the clock and of the processor, and the peak of memory in MB."""
    command = "from benchmarl_ssd.cli import main; main()"
    with tempfile.TemporaryDirectory() as root:
        options = ["--root", root, "--transitions", str(transitions)]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", command, "build", id, *options], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"building {id} failed")
    return {
        "seconds": round(seconds, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "transitions_per_second": round(transitions / seconds),
        "peak_memory_mb": round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--transitions", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    load, builds = round(os.getloadavg()[0], 1), {recipe: {} for recipe in RECIPES}
    for recipe in RECIPES:
        for transitions in arguments.transitions:
            measured = measure_build(f"mpe/{recipe}", transitions)
            builds[recipe][transitions] = measured
            print(recipe, f"{transitions:,}", measured, flush=True)
    if arguments.output:
        record = {"load_average": load, "builds": builds}
        arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
