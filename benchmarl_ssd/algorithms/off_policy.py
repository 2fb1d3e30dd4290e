"""Evaluation of runs without a simulator: nothing is played, so nothing may look as if it were."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from benchmarl.utils import local_seed, seed_everything
from tensordict import TensorDictBase

from benchmarl_ssd.algorithms.callback import OfflineCallback, write_json
from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.evaluation.fqe import FqeOptions
from benchmarl_ssd.evaluation.off_policy import action_distance, estimate
from benchmarl_ssd.evaluation.transitions import TeamTransitions

if TYPE_CHECKING:
    from benchmarl_ssd.algorithms.common import OfflineAlgorithm

LOGGED = ("fqe_return_estimate", "fqe_interval_low", "fqe_interval_high", "action_distance")
"""What is logged of an evaluation, each below ``eval/``."""


class OffPolicyCallback(OfflineCallback):
    """Replaces every return that BenchMARL would log on a logged task by an estimate, so named.

    The environment of such a task plays the data back. Its rewards are the data's, so BenchMARL's
    ``eval/reward/episode_reward`` and the ``return`` of its JSON are not written at all. Instead
    there are ``eval/fqe_return_estimate`` with ``eval/fqe_interval_low`` and ``_high``, and
    ``eval/action_distance``; the blocks of ``summary.json`` hold the same names and no
    ``return_mean``. The best parameters are not looked for: choosing by an estimate favours its
    errors.
    """

    def __init__(self, algorithm: OfflineAlgorithm) -> None:
        super().__init__(algorithm)
        self._training = False
        self._final: dict[str, Any] | None = None

    def on_setup(self) -> None:
        """Keep the data's returns out of the loggers and the JSON."""
        super().on_setup()
        self.experiment.logger.log_evaluation = lambda *args, **kwargs: None

    def on_batch_collected(self, batch: TensorDictBase) -> None:
        """Remember that what is evaluated from now on is evaluated during training."""
        super().on_batch_collected(batch)
        self._training = True

    def on_evaluation_end(self, rollouts: list[TensorDictBase]) -> None:
        """Log the estimate; of the rollouts, which play the data back, nothing is taken."""
        config = self.experiment.task.config
        result = self._final  # known already, if this evaluation follows the last iteration
        if result is None:
            steps = config["fqe_steps_in_training" if self._training else "fqe_steps"]
            result = self._estimate(steps)
        self._log(result)

    def _log(self, result: dict[str, Any]) -> None:
        experiment = self.experiment
        flat = dict(result)
        if "fqe_interval" in flat:
            flat["fqe_interval_low"], flat["fqe_interval_high"] = flat["fqe_interval"]
        found = {name: flat[name] for name in LOGGED if name in flat}
        experiment.logger.log(
            {f"eval/{name}": value for name, value in found.items()},
            step=experiment.n_iters_performed,
        )
        if experiment.logger.json_writer is not None:
            experiment.logger.json_writer.write(
                metrics={
                    name: torch.tensor([value], dtype=torch.float64)
                    for name, value in found.items()
                },
                total_frames=experiment.total_frames,
                evaluation_step=experiment.total_frames // experiment.config.evaluation_interval,
            )

    # -- the end ------------------------------------------------------------------------------

    def _finish(self) -> None:
        self._final = final = self._evaluate()
        path = self.experiment.folder_name / "summary.json"
        write_json(path, {**self._summary(final, final), "best": None})
        low, high = final["fqe_interval"]
        print(
            f"\n{self.experiment.algorithm_name}: estimated return "
            f"{final['fqe_return_estimate']:.4g} ({final['fqe_confidence']:.0%} interval {low:.4g} "
            f"to {high:.4g}; FQE on the data, nothing was played); {path}"
        )

    @local_seed()
    def _evaluate(self) -> dict[str, Any]:
        return self._estimate(self.experiment.task.config["fqe_steps"])

    def _estimate(self, steps: int) -> dict[str, Any]:
        experiment, config = self.experiment, self.experiment.task.config
        seed_everything(experiment.seed)
        device, recurrent = experiment.config.train_device, self.algorithm.has_rnn
        if steps == 0:
            return action_distance(self._transitions, experiment.policy, recurrent)
        options = FqeOptions(
            steps=steps,
            members=config["fqe_members"],
            num_cells=tuple(config["fqe_num_cells"]),
            batch_size=config["fqe_batch_size"],
            lr=config["fqe_lr"],
            gamma=config["fqe_gamma"],
            confidence=config["fqe_confidence"],
            seed=experiment.seed,
        )
        return estimate(self._evaluated, experiment.policy, options, recurrent, device)

    @functools.cached_property
    def _evaluated(self) -> OfflineDataset:
        # The task's data, also where the algorithm is trained on other data.
        path, trained = Path(self.experiment.task.dataset), self.algorithm.dataset
        if trained is not None and trained.data_path.resolve() == path.resolve():
            return trained
        return OfflineDataset(path)

    @functools.cached_property
    def _transitions(self) -> TeamTransitions:
        return TeamTransitions(self._evaluated, self.experiment.config.train_device)
