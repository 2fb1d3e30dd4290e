"""What was found about a dataset's coordination, in numbers and in words."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

__all__ = ["NEGLIGIBLE", "Coordination", "Estimate", "Phase"]

NEGLIGIBLE = 0.2
"""Nats below which agents may be modelled one by one. What a fit misses of the state can look like
0.1 nats of coordination, and marginals then play at most a third of the joint actions wrong."""


@dataclass(frozen=True)
class Estimate:
    """A number in nats with the interval that holds 95% of its bootstrap over episodes."""

    nats: float
    low: float
    high: float


@dataclass(frozen=True)
class Phase:
    """Some steps of the episodes.

    Args:
        first: their first step, from 1.
        last: their last step.
        share: share of the transitions, in (0, 1].
        information: total correlation, averaged over them.
    """

    first: int
    last: int
    share: float
    information: Estimate


@dataclass(frozen=True)
class Coordination:
    """The coordination of a group's agents.

    Args:
        group: the group.
        agents: their number n.
        information: total correlation given the state, averaged over transitions.
        denoising: the same from the gap between denoising errors.
        by_agent: each agent's share of it: what the agents before tell of its action, ``[n]``.
        phases: the same by steps of the episode, which double.
        resolution: noise added to the actions, whose bounds are -1 and 1.
        held_out_episodes: episodes that the estimate is from; the fits never saw them.
    """

    group: str
    agents: int
    information: Estimate
    denoising: Estimate
    by_agent: list[float]
    phases: list[Phase]
    resolution: float
    held_out_episodes: int

    @property
    def peak(self) -> Phase:
        """The phase with the most coordination."""
        return max(self.phases, key=lambda phase: phase.information.nats)

    @property
    def verdict(self) -> str:
        """``independent``, ``coordinated`` or ``undecided``, where the most coordination is."""
        peak = self.peak.information
        if peak.high < NEGLIGIBLE:
            return "independent"
        return "coordinated" if peak.low > NEGLIGIBLE else "undecided"

    @property
    def most_lost(self) -> float:
        """Upper bound on the total variation between joint actions and marginals, at the peak."""
        nats = max(0.0, self.peak.information.high)
        return min(math.sqrt(1 - math.exp(-nats)), math.sqrt(nats / 2))

    def words(self) -> str:
        """Say in a sentence or two what follows for the choice of a method."""
        where = "" if len(self.phases) == 1 else f" in {_steps(self.peak)}"
        if self.verdict == "independent":
            return (
                "Given the state, the agents act all but independently: marginal methods will do. "
                f"Their joint actions differ from the data's in at most {self.most_lost:.0%}."
            )
        if self.verdict == "coordinated":
            return (
                f"The agents' actions belong together{where}: marginal methods will combine what "
                "nobody combined. Take algorithm=ssd, whose decomposition is sequential or joint; "
                "where different teams followed different conventions, algorithm.n_conventions, "
                "their number or more, binds all agents to one of them."
            )
        return (
            f"There may be some coordination{where}, about what a fit can miss: compare "
            "algorithm.decomposition=marginal with sequential, or record more episodes."
        )

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain numbers, lists and strings."""
        return dataclasses.asdict(self) | {
            "verdict": self.verdict, "most_lost": self.most_lost, "words": self.words(),
        }  # fmt: skip

    def __str__(self) -> str:
        total = self.information
        lines = [
            f"{self.group}: {total.nats:.3f} nats in the mean ({total.low:.3f} to "
            f"{total.high:.3f}), {self.agents} agents; by denoising errors "
            f"{self.denoising.nats:.3f} ({self.denoising.low:.3f} to {self.denoising.high:.3f})"
        ]
        if len(self.phases) > 1:
            lines += [
                f"  {_steps(phase):<16} {phase.information.nats:6.3f} "
                f"({phase.information.low:.3f} to {phase.information.high:.3f})"
                for phase in self.phases
            ]
        return "\n".join([*lines, f"  {self.words()}"])


def _steps(phase: Phase) -> str:
    return (
        f"step {phase.first}"
        if phase.first == phase.last
        else (f"steps {phase.first} to {phase.last}")
    )
