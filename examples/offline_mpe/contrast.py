"""Can a value tell the logged action from others, on data that regression learns?

Conservative methods (`macql`, `omar`, `cfcql`) learn what was logged by contrast: the value of the
logged action is raised, that of sampled ones lowered, and the policy is what maximises the value.
Here that part stands alone, without rewards, for one agent, beside the
regression that cloning is:

* regression: the mean action by least squares;
* penalty: L = log mean_m exp Q(o, u_m) - Q(o, a), the term of those methods at T = 1;
* likelihood: the logged action among the sampled ones (InfoNCE); its optimum is the data's density.

All have the same hidden layers, 10 uniform actions a sample, and the same number of steps. Printed
is how far the action of the highest value (on a grid of 21 x 21) is from the logged one, as a share
of the logged actions' variance: 1 is as good as always acting alike, 0 is perfect.

    python examples/offline_mpe/contrast.py --out examples/offline_mpe/contrast.json
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.recipes import build

SAMPLES, GRID, HELD_OUT = 10, 21, 2000
DATA = [
    "cooperative_navigation/expert",
    "cooperative_navigation/mixed",
    "cooperative_navigation/medium",
    "predator_prey/expert",
    "world/expert",
]
LOSSES = ("regression", "penalty", "likelihood")


def network(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers of 128, as the actors have."""
    layers = [nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(128, outputs))


def value(net: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    """Values of actions ``[..., B, 2]`` for observations ``[B, size]``."""
    observation = observation.expand(*action.shape[:-1], -1)
    return net(torch.cat([observation, action], -1))[..., 0]


def loss(kind: str, net: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    """What is minimised."""
    if kind == "regression":
        return (net(observation).tanh() - action).square().mean()
    logged = value(net, observation, action)
    sampled = value(net, observation, 2 * torch.rand(SAMPLES, *action.shape) - 1)
    if kind == "penalty":
        return (sampled.logsumexp(0) - math.log(SAMPLES) - logged).mean()
    return (torch.cat([logged[None], sampled]).logsumexp(0) - logged).mean()


@torch.no_grad()
def unexplained(kind: str, net: nn.Module, observation: Tensor, action: Tensor) -> float:
    """Squared distance of what the policy would do, over the actions' variance."""
    if kind == "regression":
        chosen = net(observation).tanh()
    else:
        line = torch.linspace(-1, 1, GRID)
        grid = torch.cartesian_prod(line, line)
        every = grid[:, None].expand(-1, len(observation), -1)
        chosen = grid[value(net, observation, every).argmax(0)]
    distance = (chosen - action).square().mean()
    return (distance / action.var(0).mean()).item()


def train(data: str, kind: str, steps: int, seed: int) -> dict:
    """Train one network and measure it on transitions that it hardly ever saw."""
    torch.manual_seed(seed)
    folder = build(f"mpe/{data}", progress=False)
    batches = OfflineDataset(folder, batch_size=512)
    one = [batches.sample() for _ in range(math.ceil(HELD_OUT / 512))]
    observation, action = (
        torch.cat([batch["agents", key][:, 0] for batch in one])
        for key in ("observation", "action")
    )
    size = observation.shape[-1]
    net = network(*((size, 2) if kind == "regression" else (size + 2, 1)))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    curve = {}
    for step in range(1, steps + 1):
        batch = batches.sample()["agents"]
        found = loss(kind, net, batch["observation"][:, 0], batch["action"][:, 0])
        optimiser.zero_grad()
        found.backward()
        optimiser.step()
        schedule.step()
        if step % (steps // 3) == 0:
            curve[step] = round(unexplained(kind, net, observation, action), 3)
    return {"data": data, "loss": kind, "seed": seed, "unexplained": curve}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=DATA)
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for data in options.data:
        for kind in LOSSES:
            for seed in options.seeds:
                lines.append(train(data, kind, options.steps, seed))
                print(json.dumps(lines[-1]), flush=True)
    if options.out:
        options.out.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
