"""One clear line when a host library has a version this package was not written for."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from packaging.requirements import Requirement

DISTRIBUTION = "benchmarl-ssd"
_HOSTS = ("benchmarl", "torchrl", "tensordict", "hydra-core")


def check_versions(requirements: Iterable[str] | None = None) -> None:
    """Raise ``ImportError`` if BenchMARL, TorchRL, TensorDict or Hydra is out of range.

    Args:
        requirements (iterable of str, optional): requirement strings to check; by default those of
            this package's own metadata, so that a range is written in one place only.

    Examples:
        >>> check_versions(["hydra-core>=1.0"])
        >>> check_versions(["hydra-core<1.0"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ImportError: benchmarl-ssd needs hydra-core<1.0, found ...
    """
    if requirements is None:
        try:
            requirements = metadata.requires(DISTRIBUTION) or []
        except metadata.PackageNotFoundError:  # run from a source tree that is not installed
            return
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name not in _HOSTS or requirement.marker is not None:
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found = "nothing"
        if found == "nothing" or not requirement.specifier.contains(found, prereleases=True):
            wanted = f"{requirement.name}{requirement.specifier}"
            raise ImportError(
                f'{DISTRIBUTION} needs {wanted}, found {found}; run: pip install "{wanted}"'
            )
