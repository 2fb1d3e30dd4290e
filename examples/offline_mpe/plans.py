"""Where does a planner lose the action: in its plan, or in what it tells from the plan?

Trains `madiff` on Cooperative Navigation data as `run.py` does and looks at logged transitions.
Which share of the actions' variance do inverse dynamics leave unexplained (0 is perfect, 1 as good
as always acting alike) when they are told

* the logged change of the observation;
* the change that the plan's regression expects;
* the change that is planned, by diffusion and under guidance, which is what the policy does.

Each call adds a line to the result file.

    python examples/offline_mpe/plans.py --horizon 8 --plan-lr 2e-3
    python examples/offline_mpe/plans.py --horizon 4 --plan-lr 6e-3
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import torch
from benchmarl.experiment import Experiment
from run import prepare
from torch import Tensor

from benchmarl_ssd.data.statistics import sample_rows

RESULTS = Path(__file__).with_name("plans.jsonl")
ROWS = 4000


@torch.no_grad()
def unexplained(experiment: Experiment) -> dict[str, float]:
    """Shares of the logged actions' variance."""
    loss = experiment.losses["agents"]
    plan = loss.plan_network
    data = experiment.algorithm.dataset.data
    rows = data[sample_rows(len(data), ROWS)]
    action = loss.action_scaler.scale(rows["agents", "action"])

    def share(change: Tensor) -> float:
        told = rows.select(("agents", "observation")).set(plan.plan_key, change)
        with loss.actor_network_params.to_module(loss.actor_network):
            found = loss.actor_network(told)["agents", "action"]
        error = (loss.action_scaler.scale(found) - action).square().mean()
        return (error / action.var(0).mean()).item()

    with loss.plan_network_params.to_module(plan):
        observed = plan.observe(rows, 1)
        logged = plan.frame.encode_step(observed, plan.observe(rows["next"], 1))
        any_rank = plan.condition(torch.full((len(rows),), math.nan))
        expected = plan.regression(plan.frame.encode_current(observed), any_rank)[:, :, 0]
        planned = plan(rows.select(*plan.in_keys))[plan.plan_key]
    return {"logged": share(logged), "expected": share(expected), "planned": share(planned)}


def main(quality: str, horizon: int, plan_lr: float, seed: int) -> dict:
    """Train one planner and look at it."""
    changes = {"horizon": horizon, "plan_lr": plan_lr}
    with tempfile.TemporaryDirectory() as folder:
        experiment, _ = prepare(
            "cooperative_navigation", quality, "madiff", seed, folder, **changes
        )
        experiment.run()
        summary = json.loads((experiment.folder_name / "summary.json").read_text())
        found = unexplained(experiment)
    normalised = summary["final"]["normalised"]
    return {"quality": quality, **changes, "seed": seed, "normalised": normalised, **found}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quality", default="expert")
    parser.add_argument("--horizon", type=int, default=4)
    parser.add_argument("--plan-lr", type=float, default=6e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    line = json.dumps(main(options.quality, options.horizon, options.plan_lr, options.seed))
    print(line)
    with RESULTS.open("a") as out:
        out.write(line + "\n")
