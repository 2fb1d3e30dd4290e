"""What `benchmarl-ssd compare` does, through BenchMARL's own `Benchmark`: one run after another.

python examples/compare.py OUT
benchmarl-ssd report OUT --out OUT/report
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from benchmarl.benchmark import Benchmark
from benchmarl.experiment import ExperimentConfig
from benchmarl.models import MlpConfig

from benchmarl_ssd import conf_dir
from benchmarl_ssd.algorithms import BcConfig, SsdConfig
from benchmarl_ssd.comparison.content import describe
from benchmarl_ssd.comparison.groups import grouped
from benchmarl_ssd.comparison.results import read_results
from benchmarl_ssd.comparison.statistics import Bootstrap
from benchmarl_ssd.comparison.tables import markdown
from benchmarl_ssd.environments import CoordinationTask

DATASET = "coordination/bandit/modes"


def main(out: Path, seeds: int = 3, iterations: int = 15) -> str:
    """Run the grid in a folder and return the report."""
    algorithms = [SsdConfig.get_from_yaml(), BcConfig.get_from_yaml()]
    for algorithm in algorithms:
        algorithm.dataset = DATASET
    config = ExperimentConfig.get_from_yaml(str(conf_dir() / "experiment" / "offline.yaml"))
    config.max_n_iters, config.evaluation_interval = iterations, max(1, iterations // 5)
    config.save_folder = str(out)
    network = MlpConfig(
        num_cells=[64, 64], layer_class=torch.nn.Linear, activation_class=torch.nn.Tanh
    )
    out.mkdir(parents=True)
    Benchmark(
        algorithm_configs=algorithms,
        tasks=[CoordinationTask.BANDIT.get_from_yaml()],
        seeds=set(range(seeds)),
        experiment_config=config,
        model_config=network,
    ).run_sequential()
    return markdown(describe(grouped(read_results([out])), Bootstrap()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(main(Path(sys.argv[1])))
