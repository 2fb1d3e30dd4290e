"""What a check of a dataset finds: where, what was expected, what came, what mends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarl_ssd.data.errors import DatasetError

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a dataset, or looks as if it were.

    Args:
        check: the check's name, such as ``"values"``.
        expected: what a sound dataset has.
        found: what this one has, and where, in words.
        mend: what to do about it; a command where one can mend it.
        key: the tensor's name or the file's path it is about, or None.
        row: the first transition it is about, counted from 0, or None.
        count: how many transitions it is about, or 1.
        level: an ``"error"`` makes the dataset unusable, a ``"warning"`` is to be looked at.

    Example:
        >>> Finding("values", "finite values", "nan in agents/action", "drop that episode").message
        'expected finite values, found nan in agents/action; drop that episode'
    """

    check: str
    expected: str
    found: str
    mend: str
    key: str | None = None
    row: int | None = None
    count: int = 1
    level: Level = "error"

    @property
    def message(self) -> str:
        """The finding in one sentence."""
        return f"expected {self.expected}, found {self.found}; {self.mend}"

    def to_dict(self) -> dict[str, Any]:
        """Give the finding's entries, ready for JSON."""
        return asdict(self)


def raise_first(findings: Iterable[Finding]) -> None:
    """Raise the first error there is; the findings after it are not looked for.

    Args:
        findings: findings, best made while they are asked for.

    Raises:
        DatasetError: with the first error's message.

    Example:
        >>> raise_first([])
    """
    for finding in findings:
        if finding.level == "error":
            raise DatasetError(finding.message)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Merge findings of the same kind in the same tensor: the first one stands for all.

    Args:
        findings: findings, each tensor's in the order of its transitions.

    Returns:
        One finding per check, tensor and level, with the number of transitions concerned; errors
        come first.

    Example:
        >>> first = Finding("values", "finite values", "nan", "drop it", "agents/action", row=3)
        >>> [(f.row, f.count) for f in merged([first, first])]
        [(3, 2)]
    """
    kept: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        # Without a transition to point at, findings of one check are different things.
        apart = finding.expected if finding.row is None else None
        place = (finding.check, finding.key, finding.level, apart)
        if place in kept:
            finding = replace(kept[place], count=kept[place].count + finding.count)
        kept[place] = finding
    return sorted(kept.values(), key=lambda finding: finding.level)
