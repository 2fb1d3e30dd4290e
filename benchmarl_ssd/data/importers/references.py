"""Returns of random and expert play, as the literature normalises by them."""

from __future__ import annotations

import re

_OMAR = "OMAR (Pan et al., 2022)"
_OG_MARL = "OG-MARL (Formanek et al., 2023)"

_MPE = {
    "cooperativenavigation": (159.8, 516.8),
    "simplespread": (159.8, 516.8),
    "predatorprey": (-4.1, 185.6),
    "simpletag": (-4.1, 185.6),
    "world": (-6.8, 79.5),
    "simpleworld": (-6.8, 79.5),
}
_MUJOCO = {
    "2x3halfcheetah": (-283.97, 3568.81, _OMAR),
    "halfcheetah2x3": (-283.97, 3568.81, _OMAR),
    "2halfcheetah": (-280.18, 9132.25, _OG_MARL),
    "2ant": (-325.6, 3362.44, _OG_MARL),
    "4ant": (-325.6, 3224.91, _OG_MARL),
}


def literature(format: str, name: str) -> tuple[dict[str, float | None], str] | None:
    """Look up the returns that the literature takes for 0 (random) and 1 (expert).

    OMAR's of MPE hold for data of OMAR's own environment, whose prey has its own policy; so they
    are given for the formats in which that data comes. Forks of the literature disagree.

    Args:
        format: of the source.
        name: the task's name, without its environment.

    Returns:
        The references and whose they are; None if none are known.

    Example:
        >>> literature("omar", "cooperative_navigation")
        ({'random': 159.8, 'expert': 516.8}, 'OMAR (Pan et al., 2022)')
        >>> literature("omar", "balance")
    """
    plain = re.sub(r"[^a-z0-9]|_?v[0-9]+$", "", name.lower())
    if plain in _MPE and format in ("omar", "madiff", "vault"):
        random, expert = _MPE[plain]
        return {"random": random, "expert": expert}, _OMAR
    if plain in _MUJOCO and format != "arrays":
        random, expert, whose = _MUJOCO[plain]
        return {"random": random, "expert": expert}, whose
    return None
