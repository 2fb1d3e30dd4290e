"""Where the package's Hydra configs lie on this machine."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """Return the folder with our Hydra groups (``algorithm/``, ``experiment/``, ``task/``).

    A wheel carries it inside the package, a source tree beside the package.

    Returns:
        The first of ``benchmarl_ssd/conf`` and ``<repository>/conf`` that holds ``algorithm/``.

    Raises:
        FileNotFoundError: neither exists, so the installation is incomplete.

    >>> conf_dir().name
    'conf'
    """
    candidates = (_PACKAGE / "conf", _PACKAGE.parent / "conf")
    for candidate in candidates:
        if (candidate / "algorithm").is_dir():
            return candidate
    raise FileNotFoundError(
        f"Expected the config folder at {candidates[0]} (wheel) or {candidates[1]} (source tree), "
        "found neither; reinstall benchmarl-ssd."
    )
