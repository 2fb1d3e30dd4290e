"""Time one decision of a trained policy, in PyTorch and exported: `latency.py CHECKPOINT`.

One thread, one observation for each agent. Prints the medians in microseconds as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from benchmarl_ssd.cli.sources import open_experiment
from benchmarl_ssd.deployment import export_policy
from benchmarl_ssd.deployment.graph import input_specs


def median(decide, decisions: int = 5000) -> float:
    """Microseconds of a decision, after a warm-up."""
    times = []
    for index in range(decisions + 500):
        start = time.perf_counter_ns()
        decide()
        if index >= 500:
            times.append((time.perf_counter_ns() - start) / 1000)
    return round(statistics.median(times), 1)


def main(checkpoint: Path) -> None:
    torch.set_num_threads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with open_experiment(checkpoint, 1) as run, TemporaryDirectory() as folder:
        for group, policy in run.group_policies.items():
            data = TensorDict({"is_init": torch.zeros(1, 1, dtype=torch.bool)}, [1])
            for key, (spec, _) in input_specs(run, group).items():
                data[key] = torch.randn(1, *spec.shape).to(spec.dtype)
            (file,) = export_policy(run, Path(folder) / f"{group}.onnx", group=group)
            session = onnxruntime.InferenceSession(file.path, options)
            feed = {
                port["name"]: data[key].numpy()
                for port, key in zip(file.metadata["inputs"], input_specs(run, group), strict=True)
            }
            with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
                torch_us = median(lambda policy=policy, data=data: policy(data.copy()))
            onnx_us = median(lambda session=session, feed=feed: session.run(None, feed))
            result = {
                "group": group,
                "agents": len(run.group_map[group]),
                "model": run.model_name,
                "parameters": sum(p.numel() for p in policy.parameters()),
                "torch_us": torch_us,
                "onnxruntime_us": onnx_us,
                "file_kB": round(file.path.stat().st_size / 1000),
                "differences": {name: off for name, (off, _) in file.differences.items()},
            }
            print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
