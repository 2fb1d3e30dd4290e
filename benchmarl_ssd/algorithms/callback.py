"""What BenchMARL's loop lacks for offline runs, added through its callback interface."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from benchmarl.experiment.callback import Callback
from benchmarl.utils import local_seed, seed_everything
from tensordict import TensorDictBase

from benchmarl_ssd.algorithms.cuda_graphs import GraphedSteps, portable, set_rate
from benchmarl_ssd.evaluation.episodes import (
    episode_returns,
    normalised,
    rollout_episodes,
    summarise,
)

if TYPE_CHECKING:
    from benchmarl_ssd.algorithms.common import OfflineAlgorithm

_STATE = "benchmarl_ssd"


class OfflineCallback(Callback):
    """Schedules learning rates, keeps the best parameters, makes resuming exact, sums up the run.

    Args:
        algorithm (OfflineAlgorithm): the algorithm of the run.
    """

    def __init__(self, algorithm: OfflineAlgorithm) -> None:
        super().__init__()
        self.algorithm = algorithm
        self.steps: dict[str, int] = dict.fromkeys(algorithm.group_map, 0)
        self.train_seconds = 0.0
        self.last_return = math.nan
        self.best_return = -math.inf
        self.best_parameters: dict[str, Any] | None = None
        self._base_lr: dict[str, dict[str, list[float]]] = {}
        self._started = 0.0
        self._pending_rng: dict[str, Any] | None = None
        self._graphed: GraphedSteps | None = None

    @property
    def references(self) -> dict[str, float | None] | None:
        """Reference returns of the dataset."""
        dataset = self.algorithm.dataset
        return None if dataset is None else dataset.metadata.references

    # -- the loop -----------------------------------------------------------------------------

    def on_setup(self) -> None:
        """Remember the learning rates, and let the progress bar show the last evaluation."""
        self._base_lr = {
            group: {
                name: [part["lr"] for part in optimizer.param_groups]
                for name, optimizer in optimizers.items()
            }
            for group, optimizers in self.experiment.optimizers.items()
        }
        if self.algorithm.cuda_graphs:
            self._graphed = GraphedSteps(self.experiment)
            self.experiment._optimizer_loop = self._graphed
        dataset = self.algorithm.dataset
        if dataset is None:
            return
        note = self.experiment.folder_name / "dataset_path.txt"
        note.write_text(f"{dataset.data_path.resolve()}\n", encoding="utf-8")
        # Nothing is collected, so there is nothing to log of it; the number that BenchMARL shows
        # beside its bar is this function's result.
        self.experiment.logger.log_collection = lambda *args, **kwargs: self.last_return

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """Start the clock of an iteration; continue the random numbers where training left them."""
        if self._pending_rng is not None:
            _set_rng_state(self._pending_rng)
            self._pending_rng = None
        self._started = time.perf_counter()

    def on_train_step(self, batch: TensorDictBase, group: str) -> None:
        """Move the learning rates along their schedule."""
        self.steps[group] += 1
        for name, optimizer in self.experiment.optimizers[group].items():
            factor = self.algorithm.lr_factor(group, name, self.steps[group])
            for part, base in zip(optimizer.param_groups, self._base_lr[group][name], strict=True):
                set_rate(part, base * factor)

    def on_train_end(self, training_td: TensorDictBase, group: str) -> None:
        """Stop the clock; after the last group of the last iteration, sum the run up."""
        if group != list(self.experiment.train_group_map)[-1]:
            return
        self.train_seconds += time.perf_counter() - self._started
        if self.algorithm.dataset is not None:
            # What a drawing policy draws for the stand-in of a simulator is no part of the run;
            # a resumed run would draw it from other states.
            self._pending_rng = _rng_state()
        if self.experiment.n_iters_performed + 1 == self.algorithm.total_iterations:
            self._finish()

    def on_evaluation_end(self, rollouts: list[TensorDictBase]) -> None:
        """Log the normalised return and keep the parameters if they are the best so far."""
        returns = episode_returns(rollouts, self.experiment.group_map)
        self.last_return = returns.mean().item()
        score = normalised(self.last_return, self.references)
        metrics = self.algorithm.diagnose(max(self.steps.values()))
        if score is not None:
            metrics["eval/normalised_return"] = score
        if metrics:
            self.experiment.logger.log(metrics, step=self.experiment.n_iters_performed)
        if self.last_return > self.best_return:
            self.best_return = self.last_return
            self.best_parameters = copy.deepcopy(self.experiment.policy.state_dict())

    # -- the end ------------------------------------------------------------------------------

    def _finish(self) -> None:
        last = copy.deepcopy(self.experiment.policy.state_dict())
        final = self._evaluate()
        best = final
        if self.best_parameters is not None:
            self.experiment.policy.load_state_dict(self.best_parameters)
            candidate = self._evaluate()
            self.experiment.policy.load_state_dict(last)
            best = max(final, candidate, key=lambda result: result["return_mean"])
        path = self.experiment.folder_name / "summary.json"
        write_json(path, self._summary(final, best))
        rate = final["success_rate"]
        success = "" if rate is None else f", success rate {rate:.3f}"
        print(
            f"\n{self.experiment.algorithm_name}: return {final['return_mean']:.4g} +- "
            f"{final['return_se']:.2g} over {final['episodes']} episodes{success}; {path}"
        )

    @local_seed()
    def _evaluate(self) -> dict[str, Any]:
        experiment = self.experiment
        seed_everything(experiment.seed)  # the same episodes for the last and the best parameters
        experiment.test_env.set_seed(experiment.seed)
        rollouts = rollout_episodes(
            experiment.test_env,
            experiment.policy,
            self.algorithm.final_evaluation_episodes,
            experiment.max_steps,
        )
        success = getattr(experiment.task, "success", None)
        return summarise(
            episode_returns(rollouts, experiment.group_map),
            self.references,
            None if success is None else success(rollouts),
        )

    def _summary(self, final: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
        experiment, dataset = self.experiment, self.algorithm.dataset
        described = None
        if dataset is not None:
            metadata = dataset.metadata
            described = {
                "id": metadata.id,
                "checksum": metadata.checksum,
                "transitions": metadata.transitions,
                "return_mean": metadata.episode_return["mean"],
                "return_best": metadata.episode_return["max"],
                "references": metadata.references,
            }
        return {
            "algorithm": experiment.algorithm_name,
            "task": f"{experiment.environment_name}/{experiment.task_name}",
            "seed": experiment.seed,
            "steps": max(self.steps.values()),
            "batch_size": experiment.config.train_batch_size(experiment.on_policy),
            "iterations": self.algorithm.total_iterations,
            "frames": experiment.total_frames,
            "train_seconds": round(self.train_seconds, 3),
            "device": str(experiment.config.train_device),
            "cuda_graphs": self.algorithm.cuda_graphs,
            "dataset": described,
            "final": final,
            "best": best,
        }

    # -- resuming -----------------------------------------------------------------------------

    def on_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Add what BenchMARL's checkpoints leave out: optimisers, random states, the best."""
        state_dict[_STATE] = {
            "steps": dict(self.steps),
            "train_seconds": self.train_seconds,
            "last_return": self.last_return,
            "best_return": self.best_return,
            "best_parameters": self.best_parameters,
            "optimizers": {
                group: {
                    name: portable(optimizer.state_dict()) for name, optimizer in optimizers.items()
                }
                for group, optimizers in self.experiment.optimizers.items()
            },
            # Hard updates of the targets count the steps between two of them.
            "target_counters": {
                group: updater.counter
                for group, updater in self.experiment.target_updaters.items()
                if hasattr(updater, "counter")
            },
            "rng": self._pending_rng or _rng_state(),
        }

    def on_load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what :meth:`on_state_dict` saved."""
        saved = state_dict.get(_STATE)
        if saved is None:
            return
        self.steps.update(saved["steps"])
        self.train_seconds = saved["train_seconds"]
        self.last_return, self.best_return = saved["last_return"], saved["best_return"]
        self.best_parameters = saved["best_parameters"]
        for group, optimizers in self.experiment.optimizers.items():
            for name, optimizer in optimizers.items():
                optimizer.load_state_dict(saved["optimizers"][group][name])
        for group, counter in saved.get("target_counters", {}).items():
            self.experiment.target_updaters[group].counter = counter
        if self._graphed is not None:
            self._graphed.forget()
        # `Experiment.run` seeds anew after loading; the states are set once it has.
        self._pending_rng = saved["rng"]


def _rng_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path (Path): the file.
        content (dict): what it holds.
    """
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
