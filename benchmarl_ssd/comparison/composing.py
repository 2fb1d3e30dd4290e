"""What a stock run will be configured as, asked of Hydra before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import benchmarl
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmarl_ssd.comparison.errors import ComparisonError


@contextmanager
def stock_configs() -> Iterator[None]:
    """Open the configs of ``python -m benchmarl.run``, ours among them, for :func:`composed`."""
    folder = Path(benchmarl.__file__).resolve().parent / "conf"
    with initialize_config_dir(version_base=None, config_dir=str(folder)):
        yield


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose the configuration that a run with these overrides has, within :func:`stock_configs`.

    Args:
        overrides: as on the command line of ``benchmarl.run``.

    Returns:
        What the run's ``.hydra/config.yaml`` will hold.

    Raises:
        ComparisonError: if Hydra does not take the overrides.

    Example:
        >>> with stock_configs():
        ...     config = composed(["algorithm=bc", "task=coordination/bandit", "seed=7"])
        >>> config["seed"]
        7
    """
    try:
        config = compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ComparisonError(f"Hydra does not take {' '.join(overrides)}: {error}") from error
    # By way of the text, so that what is composed and what a run has written are alike.
    return yaml.safe_load(OmegaConf.to_yaml(config))


def differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """Name what differs between two configurations.

    Args:
        found: the one that is there.
        wanted: the one that is asked for.
        name: what both are the value of.

    Example:
        >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 3, "c": 2}}))
        ['a.b=1 instead of 3']
    """
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*wanted, *found]):
            inner = f"{name}.{key}" if name else str(key)
            yield from differences(found.get(key, _ABSENT), wanted.get(key, _ABSENT), inner)
    elif found != wanted:
        yield f"{name}={_shown(found)} instead of {_shown(wanted)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


# An option that another version of the package does not have.
_ABSENT = "(nothing)"
