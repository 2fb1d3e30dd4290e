"""Summaries as the package's callback writes them."""

from __future__ import annotations


def make_summary(value=1.0, **changes):
    """A run's summary with a final return of `value`; `changes` replace entries."""
    low, high = 0.0, 10.0
    block = {
        "episodes": 320,
        "return_mean": value,
        "return_se": 0.1,
        "normalised": 100 * (value - low) / (high - low),
        "success_rate": None,
    }
    summary = {
        "algorithm": "ssd",
        "task": "mpe/world",
        "seed": 0,
        "steps": 7500,
        "batch_size": 512,
        "iterations": 75,
        "frames": 75,
        "train_seconds": 10.0,
        "dataset": {
            "id": "mpe/world/expert",
            "checksum": "c" * 64,
            "transitions": 1000,
            "return_mean": 5.0,
            "return_best": 12.0,
            "references": {"random": low, "expert": high},
        },
        "final": block,
        "best": {**block, "return_mean": value + 1, "normalised": 10 * (value + 1)},
    }
    return {**summary, **changes}


def make_estimated(value=1.0, **changes):
    """The same for a run on logged data."""
    final = {
        "estimator": "fqe",
        "fqe_return_estimate": value,
        "fqe_interval": [value - 1, value + 1],
        "fqe_members": [value] * 5,
        "fqe_steps": 1000,
        "fqe_gamma": 1.0,
        "fqe_horizon": 25,
        "action_distance": 0.25,
    }
    return make_summary(**{"task": "logged/dataset", "final": final, "best": None, **changes})
