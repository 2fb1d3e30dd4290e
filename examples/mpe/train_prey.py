"""Train the prey of Predator-Prey or World with DDPG, against predators that learn too.

    python examples/mpe/train_prey.py predator_prey --output prey.safetensors

The prey learns from its own observation, action and reward only, as in the original recipe. In half
of the worlds it meets predators that are trained at the same time through the simulator (see
analytic.py), in the others predators that run straight at it, so that it is never without a
serious opponent. What is kept is the prey with the best return against the latter and against
random predators: DDPG oscillates, and against strong learners a prey may leave the screen for good.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from analytic import Settings, evaluate, smooth_reward
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from benchmarl_ssd.environments.mpe.policies import AgentPolicy
from benchmarl_ssd.environments.mpe.predator_prey import PredatorPrey, Pursuit
from benchmarl_ssd.environments.mpe.prey import PreyPolicy
from benchmarl_ssd.environments.mpe.scenario import EPISODE_STEPS, State
from benchmarl_ssd.environments.mpe.world import World

TASKS: dict[str, type[PredatorPrey] | type[World]] = {
    "predator_prey": PredatorPrey,
    "world": World,
}


class Ddpg:
    """Deep deterministic policy gradient for the prey alone.

    Args:
        observation_size: of the prey.
        capacity: transitions kept for replay.
        gamma: discount per step. Episodes are cut by time, so every target bootstraps.
        tau: step of the target networks.
    """

    def __init__(
        self,
        observation_size: int,
        capacity: int = 500_000,
        gamma: float = 0.95,
        tau: float = 0.01,
        learning_rate: float = 1e-3,
    ) -> None:
        self.gamma, self.tau, self.capacity = gamma, tau, capacity
        self.actor = PreyPolicy(observation_size)
        self.critic = nn.Sequential(
            nn.BatchNorm1d(observation_size + 2),
            nn.Linear(observation_size + 2, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 1),
        )
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), learning_rate)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), learning_rate)
        self.memory = torch.empty(capacity, 2 * observation_size + 3)
        self.splits = [observation_size, 2, 1, observation_size]
        self.stored = 0

    def remember(self, *transition: Tensor) -> None:
        """Store (observation, action, reward, next observation), each ``[worlds, size]``."""
        rows = torch.cat(transition, -1)
        index = (self.stored + torch.arange(len(rows))) % self.capacity
        self.memory[index] = rows
        self.stored += len(rows)

    def update(self, batch: int = 1024) -> None:
        """One step of critic, actor and target networks."""
        index = torch.randint(min(self.stored, self.capacity), (batch,))
        observation, action, reward, following = self.memory[index].split(self.splits, -1)
        with torch.no_grad():
            after = torch.cat((following, self.target_actor(following)), -1)
            target = reward + self.gamma * self.target_critic(after)
        loss = mse_loss(self.critic(torch.cat((observation, action), -1)), target)
        self.critic_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.critic.parameters(), 0.5)
        self.critic_optimizer.step()

        chosen = self.actor(observation)
        value = self.critic(torch.cat((observation, chosen), -1)).mean()
        self.actor_optimizer.zero_grad()
        # the square keeps the tanh away from saturation
        (1e-3 * chosen.square().mean() - value).backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), 0.5)
        self.actor_optimizer.step()
        with torch.no_grad():
            for network, target_network in (
                (self.actor, self.target_actor),
                (self.critic, self.target_critic),
            ):
                slow_values = target_network.state_dict()
                for key, fast in network.state_dict().items():
                    if fast.is_floating_point():
                        slow_values[key].lerp_(fast, self.tau)


def pursue(scenario: Pursuit, state: State) -> Tensor:
    """Predators that accelerate straight at the prey: actions ``[worlds, 3, 2]``."""
    n = scenario.n_agents
    offset = state.position[:, n : n + 1] - state.position[:, :n]
    direction = offset / offset.square().sum(0).sqrt().clamp_min(0.1)
    return direction.permute(2, 1, 0)


def episode(
    scenario: Pursuit, predators: nn.Module, prey: Ddpg, worlds: int, noise: float
) -> Tensor:
    """Play one episode per world, store the prey's transitions; the predators' smooth return."""
    state = scenario.reset(worlds)
    total = torch.zeros(worlds)
    scripted = (torch.arange(worlds) % 2 == 0).view(-1, 1, 1)
    seen = scenario.observe_prey(state)
    for _ in range(EPISODE_STEPS):
        action = predators(scenario.observe(state))
        action = torch.where(scripted, pursue(scenario, state), action)
        action = (action + noise * torch.randn_like(action)).clamp(-1.0, 1.0)
        chosen = scenario.prey_policy(seen)
        chosen = (chosen + noise * torch.randn_like(chosen)).clamp(-1.0, 1.0)
        forces = torch.cat((action, chosen.unsqueeze(1)), 1).permute(2, 1, 0)
        state = State(*scenario.physics.step(state.position, state.velocity, forces))
        following = scenario.observe_prey(state)
        reward = scenario.prey_rewards(state).unsqueeze(-1)
        prey.remember(*(x.detach() for x in (seen, chosen, reward, following)))
        seen = following
        total = total + smooth_reward(scenario, state, temperature=0.03)
    return total.mean()


@torch.inference_mode()
def prey_return(
    scenario: Pursuit, predators: Callable[[State], Tensor], episodes: int = 512
) -> float:
    """Mean return of the prey itself."""
    state = scenario.reset(episodes, torch.Generator().manual_seed(0))
    total = 0.0
    for _ in range(EPISODE_STEPS):
        state, _, _ = scenario.step(state, predators(state))
        total += scenario.prey_rewards(state).mean().item()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--worlds", type=int, default=256)
    parser.add_argument("--updates", type=int, default=10, help="DDPG updates per iteration")
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--predator-rate", type=float, default=1e-4, help="their learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    acting = PreyPolicy(22 if arguments.task == "world" else 14).eval().requires_grad_(False)
    scenario = TASKS[arguments.task](prey_policy=acting)
    prey = Ddpg(scenario.prey_observation_size)
    predators = AgentPolicy(scenario.observation_size, scenario.n_agents)
    settings = Settings(iterations=arguments.iterations, learning_rate=arguments.predator_rate)
    optimizer = torch.optim.Adam(predators.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, settings.rate_at)
    start = time.time()
    log = []
    for iteration in range(arguments.iterations + 1):
        acting.load_state_dict(prey.actor.state_dict())
        if iteration % 25 == 0 or iteration == arguments.iterations:
            opponents: dict[str, Callable[[State], Tensor]] = {
                "learners": lambda state: predators(scenario.observe(state)),
                "pursuers": lambda state: pursue(scenario, state),
                "random": lambda state: torch.rand(state.position.shape[-1], 3, 2) * 2 - 1,
            }
            entry = {name: prey_return(scenario, play) for name, play in opponents.items()}
            entry |= {"iteration": iteration, "seconds": round(time.time() - start)}
            entry["score"] = (entry["pursuers"] + entry["random"]) / 2
            entry["learners_return"] = evaluate(scenario, predators)[0]
            log.append(entry)
            print(entry, flush=True)
            if entry["score"] == max(other["score"] for other in log):
                save_file(acting.state_dict(), arguments.output)
        objective = episode(scenario, predators, prey, arguments.worlds, arguments.noise)
        optimizer.zero_grad()
        (-objective / EPISODE_STEPS).backward()
        norm = nn.utils.clip_grad_norm_(predators.parameters(), settings.max_norm)
        if torch.isfinite(norm):
            optimizer.step()
        schedule.step()
        for _ in range(arguments.updates):
            prey.update()
    arguments.output.with_suffix(".json").write_text(json.dumps(log, indent=2) + "\n")


if __name__ == "__main__":
    main()
