"""What the noise levels of the policy extraction do: python examples/extraction/tension.py.

Writes tension.json and tension.png, prints the table of README.md; about a minute on one thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarl_ssd.modules import MixtureScore, PreconditionedScoreNetwork
from benchmarl_ssd.modules.noise import noise_weight

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from extraction_drawing import figure, rounded, table  # noqa: E402
from extraction_setup import (  # noqa: E402
    DEFAULT,
    NARROW,
    SETTINGS,
    Erring,
    Plain,
    fitted,
    make_loss,
    resting,
    rows_of,
    stages,
    two_modes,
)

TEAMS, AGENTS, WIDTHS = 20, (2, 4, 8), (NARROW, 0.2, 0.5)
TIMES = (0.02, 0.04, 0.07, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
GRID = torch.linspace(-1, 1, 61)


def pull(setting, progress: float, grid: Tensor, draws: int = 4000) -> Tensor:
    """Expected pull on the action of one agent whose behaviour has two modes, along ``grid``."""
    torch.manual_seed(0)
    loss = make_loss(
        MixtureScore(two_modes(1), NARROW),
        setting,
        n_policy_noise_draws=draws,
        extraction_steps=1000,
    )
    loss.step = int(1000 * progress)
    data = rows_of(torch.zeros(len(grid), 1, 1))
    return -loss._score_gradient(data, grid.reshape(-1, 1, 1)).flatten()


def landed(setting, n_agents: int, steps: int = 300) -> int:
    """Return how many of ``TEAMS`` teams end within 0.25 of a played joint mode; exact scores."""
    torch.manual_seed(n_agents)
    modes = two_modes(n_agents)
    options = {"extraction_steps": steps, "n_policy_noise_draws": DEFAULT.n_policy_noise_draws}
    loss = make_loss(MixtureScore(modes, NARROW), setting, TEAMS, n_agents, **options)
    data = rows_of(torch.zeros(TEAMS, n_agents, 1))
    # Adam works on every entry by itself, so the teams of the batch do not meet.
    optimizer = torch.optim.Adam(loss.actor_network_params.parameters(), lr=0.02)
    for loss.step in range(1, steps + 1):
        optimizer.zero_grad()
        loss.actor_loss(data)[0].sum().backward()
        optimizer.step()
    action = loss.act(loss.actor_network, data).detach()
    distance = (action.unsqueeze(1) - modes).abs().flatten(2).amax(-1).min(-1).values
    return int((distance < 0.25).sum())


def displaced(score, setting, modes: Tensor, observation: Tensor, width=NARROW) -> float:
    """RMS distance from ``modes`` (``[M, 1, 1]``) at which the expected pull of a score rests."""
    options = {"n_policy_noise_draws": 128, "extraction_steps": 1}
    exact = make_loss(MixtureScore(torch.zeros(1, 1, 1), width), setting, **options)
    loss = make_loss(score, setting, **options)
    exact.step = loss.step = 1  # the end of the extraction
    torch.manual_seed(0)
    near, data = torch.full((256, 1, 1), 0.01), rows_of(observation)
    slope = exact._score_gradient(rows_of(near), near).mean() / 0.01
    action = modes
    for _ in range(4):  # Newton's method with the exact slope
        torch.manual_seed(1)
        action = (action - loss._score_gradient(data, action) / slope).clamp(-1, 1)
    return (action - modes).square().mean().sqrt().item()


def spread(setting, noise: float, draws: int = 8000) -> dict[str, float]:
    """Standard deviation of a pull from two predictions, 0.1 off the mode, in action units."""
    torch.manual_seed(0)
    loss = make_loss(MixtureScore(torch.zeros(1, 1, 1), noise), setting, extraction_steps=1)
    action, score = torch.full((1, 1, 1), 0.1), loss.score_network
    low, high = loss.window(1.0)
    t = low + (high - low) * torch.rand(2, draws, 1, 1, 1)
    z = torch.randn(2, draws, 1, 1, 1)
    context = score.encode(rows_of(torch.zeros(1, 1, 1)), action)

    def one(t: Tensor, z: Tensor, control: float) -> Tensor:
        noised = score.schedule.alpha(t) * action + score.schedule.sigma(t) * z
        noise = score.predict(context, noised, t) - control * z
        return noise_weight(score.schedule, t, loss.weighting) * noise

    slope = (one(t[0], z[0], 0.0) + one(t[0], -z[0], 0.0)).mean() / 2 / 0.1
    sums = {
        "independent": one(t[0], z[0], 0.0) + one(t[1], z[1], 0.0),
        "minus_z": one(t[0], z[0], 1.0) + one(t[1], z[1], 1.0),
        "pair": one(t[0], z[0], 0.0) + one(t[0], -z[0], 0.0),
    }
    return {name: (found.std() / 2 / slope).item() for name, found in sums.items()}


def displacements(setting, networks: dict[str, tuple]) -> dict[str, float]:
    """Of erring scores of behaviours of each width, and of fitted scores of a narrow one."""
    found = {}
    for width in WIDTHS:
        torch.manual_seed(0)
        modes = torch.zeros(64, 1, 1)
        found[str(width)] = displaced(Erring(modes[:1], width, 64), setting, modes, modes, width)
    for name, (score, modes, observation) in networks.items():
        found[name] = displaced(score, setting, modes, observation)
    return found


def measure() -> dict:
    """All numbers, by setting."""
    networks = {"plain": fitted(Plain), "regression": fitted(PreconditionedScoreNetwork)}
    slices = {str(t): ("one", (t - 1e-3, t, t, 1.0, 0.0)) for t in TIMES}
    found: dict = {"times": {t: displacements(at, networks) for t, at in slices.items()}}
    found["settings"] = {}
    for name, setting in SETTINGS.items():
        curves = {str(p): pull(setting, p, GRID) for p in stages(setting)}
        found["settings"][name] = {
            "pull": {p: curve.tolist() for p, curve in curves.items()},
            "rests": {p: resting(GRID, curve) for p, curve in curves.items()},
            "landed": {str(n): landed(setting, n) for n in AGENTS},
            "displaced": displacements(setting, networks),
            "spread": {str(width): spread(setting, width) for width in (WIDTHS[0], WIDTHS[-1])},
        }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    start = time.process_time()
    content = rounded(measure())
    (HERE / "tension.json").write_text(json.dumps(content) + "\n")
    figure(content, GRID.tolist(), HERE / "tension.png")
    print(table(content), f"\n\n{time.process_time() - start:.0f} s of CPU")
