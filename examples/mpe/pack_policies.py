"""Pack an expert and a training history into the one small file that ships with a task.

    python examples/mpe/pack_policies.py world --expert expert.safetensors \\
        --history history.safetensors --output world_policies.safetensors

Parameters are stored in half precision. The history's last snapshot is the medium policy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task")
    parser.add_argument("--expert", type=Path, required=True)
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.1, help="of expert and medium")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    tensors = {f"expert.{key}": value for key, value in load_file(arguments.expert).items()}
    tensors |= {f"history.{key}": value for key, value in load_file(arguments.history).items()}
    with safe_open(arguments.history, "pt") as file:
        history = json.loads(file.metadata()["history"])
    last = f"history.{len(history) - 1}"
    levels = {
        "expert": [{"policy": "expert", "noise": arguments.noise, "share": 1.0}],
        "medium": [{"policy": last, "noise": arguments.noise, "share": 1.0}],
        "medium-replay": [
            {
                "policy": f"history.{i}",
                "noise": round(part["noise"], 4),
                "share": 1.0 / len(history),
            }
            for i, part in enumerate(history)
        ],
    }
    half = {key: value.to(torch.float16) for key, value in tensors.items()}
    save_file(half, arguments.output, metadata={"levels": json.dumps(levels)})
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
