"""What every stage of a recipe has: a name, a schedule, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A stage of training as a run sees it.

    Attributes:
        name: also the name of its checkpoint.
        steps: optimiser steps of the rates' schedule.
        stop: steps after which the stage ends, if before the end of its schedule.
    """

    name: str
    steps: int
    stop: int | None = None

    @property
    def taken(self) -> int:
        """Steps that the stage takes."""
        return self.steps if self.stop is None else min(self.stop, self.steps)


StageT = TypeVar("StageT", bound=Schedule)


def scaled(stage: StageT, factor: float) -> StageT:
    """The same stage with fewer or more steps, for smoke runs."""
    stop = None if stage.stop is None else max(2, round(stage.stop * factor))
    return replace(stage, steps=max(2, round(stage.steps * factor)), stop=stop)
