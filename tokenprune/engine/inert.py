"""What stands in a call that runs as one compiled graph: nothing is measured, recorded or checked.

A lock, a clock or a look at a value would break the graph, and what a graph left on Python objects
would be that of the run in which it was traced.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from tokenprune.engine.conditions import Checks, Conditions
from tokenprune.engine.meter import Meter
from tokenprune.errors import TokenpruneError
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.trace import Origin, Shapes, Trace


class _NoMeter(Meter):
    """Measures nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Nothing is timed."""
        yield

    def count(self, stage: str, tokens: float, images: float) -> None:
        """Nothing is counted."""


class _NoTrace(Trace):
    """Records nothing: a list of images would make their number a constant of the graph."""

    def begin(
        self, images: int, grid: Grid, origin: Origin | None = None, parts: Shapes = ()
    ) -> list[int]:
        """No image gets a number."""
        return []

    def record(
        self,
        site: Site,
        strategy: str,
        images: Sequence[int],
        slot: Tensor | None,
        anchor: Tensor,
        score: Tensor | None = None,
        stage: int | None = None,
    ) -> None:
        """Nothing is noted."""


class _NoConditions(Conditions):
    """Looks at no value."""

    def wanted(self, case: Hashable) -> bool:
        """Values of no case are looked at."""
        return False

    def watch(self, site: Site, hidden: Tensor) -> None:
        """Nothing is noted."""

    def require(self, fulfilled: Tensor, error: TokenpruneError) -> None:
        """Nothing is raised."""

    def settle(self) -> None:
        """Nothing was put off."""


# made once, since their locks and sets can't be made inside a graph; none of them holds anything
UNMEASURED = _NoMeter()
UNRECORDED = _NoTrace()
UNCHECKED = _NoConditions(Checks())
