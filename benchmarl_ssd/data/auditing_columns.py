"""Finds columns that never vary, that say the same thing twice, or that are padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from benchmarl_ssd.data.checks import observation_names
from benchmarl_ssd.data.findings import Finding
from benchmarl_ssd.data.metadata import DatasetMetadata


@dataclass
class _Column:
    first: torch.Tensor
    constant: torch.Tensor
    digest: torch.Tensor
    padding: torch.Tensor


class Columns:
    """Watches every column: constant, doubled, or nothing but an infinity.

    Two columns count as equal if a 64-bit random hash of all their values is; that two different
    ones collide has a probability of about 1e-19 per pair.

    Args:
        metadata: what the dataset says about itself.
        names: the tensors that can be read.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> metadata = DatasetMetadata.read(write_example())
        >>> columns = Columns(metadata, ["agents/observation"])
        >>> list(columns.add(0, {"agents/observation": torch.zeros(4, 2, 3)}))
        []
        >>> [finding.check for finding in columns.finish()]
        ['constant']
    """

    def __init__(self, metadata: DatasetMetadata, names: Sequence[str]) -> None:
        self._rows = 0
        self._random = torch.Generator().manual_seed(0)
        self._columns: dict[str, _Column] = {}
        self._agents: dict[str, bool] = {}
        self._actions = {f"{group}/action" for group in metadata.groups} & set(names)
        for group in metadata.groups:
            watched = observation_names(metadata.tensors, group)
            watched += [f"{group}/action", f"next/{group}/reward"]
            self._agents |= dict.fromkeys((n for n in watched if n in names), True)
        self._agents |= dict.fromkeys((n for n in ("state",) if n in names), False)

    def add(self, row: int, rows: Mapping[str, torch.Tensor]) -> Iterator[Finding]:
        """Take transitions; what they show is told at the end."""
        count = len(next(iter(rows.values())))
        keys = torch.randint(-(2**63), 2**63 - 1, (count, 1, 1), generator=self._random) | 1
        for name, per_agent in self._agents.items():
            # [t, n, entries], also of one entry per agent, as choices are
            values = rows[name].reshape(count, rows[name].shape[1] if per_agent else 1, -1)
            if name not in self._columns:
                shape = values.shape[1:]
                self._columns[name] = _Column(
                    values[0].clone(),
                    torch.ones(shape, dtype=torch.bool),
                    torch.zeros(shape, dtype=torch.int64),
                    torch.ones(shape, dtype=torch.bool),
                )
            column = self._columns[name]
            column.constant &= (values == column.first).all(0)
            column.digest += (_bits(values) * keys).sum(0)  # wraps around, as hashes may
            if values.dtype.is_floating_point:
                column.padding &= values.isinf().all(0)
            else:
                column.padding.zero_()
        self._rows += count
        return iter(())

    def finish(self) -> Iterator[Finding]:
        """Tell which columns are constant, doubled or padding."""
        if self._rows < 2:
            return
        for name, column in self._columns.items():
            if column.padding.any():
                yield self._padding(name, column)
            constant = column.constant & ~column.padding
            if constant.any():
                yield self._constant(name, constant, column.first)
            yield from self._doubled(name, column, column.constant | column.padding)

    def _padding(self, name: str, column: _Column) -> Finding:
        return Finding(
            "padding",
            "finite values",
            f"{column.first[column.padding][0].item()} in every transition of {name}, "
            f"{self._where(name, column.padding)}: padding of agents that see less",
            "strip or replace these columns where the data is made, and record or import it again",
            key=name,
            row=0,
            count=self._rows,
        )

    def _constant(self, name: str, constant: torch.Tensor, first: torch.Tensor) -> Finding:
        values = first[constant].unique().tolist()
        shown = ", ".join(f"{value:g}" for value in values[:3]) + (", ..." if values[3:] else "")
        if name.endswith("/reward"):
            expected, mend = "rewards that tell good from bad", "check what was logged as reward"
        elif name in self._actions:
            expected, mend = "actions that vary", "check what was logged as action"
        else:
            expected = "columns that vary"
            mend = "leave them out where the data is made, if they mean nothing"
        return Finding(
            "constant",
            expected,
            f"always {shown} in {name}, {self._where(name, constant)}",
            mend,
            key=name,
            level="warning",
        )

    def _doubled(self, name: str, column: _Column, left_out: torch.Tensor) -> Iterator[Finding]:
        if name.endswith("/reward"):  # teams share rewards as a rule
            return
        if name in self._actions and column.digest.shape[0] > 1 and not left_out.any(1).all():
            yield from self._same_actions(name, column.digest)
        pairs = []
        for agent, (digests, out) in enumerate(zip(column.digest.tolist(), left_out, strict=True)):
            seen: dict[int, int] = {}
            for index, digest in enumerate(digests):
                if not out[index] and seen.setdefault(digest, index) != index:
                    place = f"agent {agent}, " if self._agents[name] else ""
                    pairs.append(f"{place}column {index} is column {seen[digest]}")
        if pairs:
            more = f" and {len(pairs) - 6} more" if len(pairs) > 6 else ""
            yield Finding(
                "duplicated",
                "columns that differ",
                f"equal ones in {name}: {'; '.join(pairs[:6])}{more}",
                "leave one of the two out where the data is made, if that was not meant",
                key=name,
                level="warning",
            )

    def _same_actions(self, name: str, digest: torch.Tensor) -> Iterator[Finding]:
        seen: dict[tuple[int, ...], int] = {}
        for agent, digests in enumerate(digest.tolist()):
            other = seen.setdefault(tuple(digests), agent)
            if other != agent:
                yield Finding(
                    "duplicated",
                    f"agents of {name} that act for themselves",
                    f"agents {other} and {agent} with equal actions in every transition",
                    "check that each agent's own action was logged",
                    key=name,
                    level="warning",
                )

    def _where(self, name: str, mask: torch.Tensor) -> str:
        if bool((mask == mask[0]).all()) and len(mask) > 1:
            return f"all agents, {_ranges(mask[0])}"
        parts = [
            f"agent {agent}, {_ranges(columns)}" if self._agents[name] else _ranges(columns)
            for agent, columns in enumerate(mask)
            if columns.any()
        ]
        return "; ".join(parts[:4]) + (f"; and {len(parts) - 4} more agents" if parts[4:] else "")


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Give an integer for each value, equal for equal ones."""
    if values.dtype == torch.float64:
        return (values + 0.0).view(torch.int64)
    if values.dtype.is_floating_point:
        return (values.float() + 0.0).view(torch.int32).long()  # -0.0 + 0.0 is 0.0
    return values.long()


def _ranges(mask: torch.Tensor) -> str:
    """Write which columns are meant.

    >>> _ranges(torch.tensor([True, False, True, True]))
    'columns 0, 2-3'
    """
    chosen = mask.nonzero().flatten().tolist()
    runs = [
        [index for _, index in run]
        for _, run in groupby(enumerate(chosen), key=lambda pair: pair[1] - pair[0])
    ]
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    shown = ", ".join(texts[:8]) + (", ..." if texts[8:] else "")
    return f"column{'s' if len(chosen) > 1 else ''} {shown}"
