"""What serving engines tell the command line: their options for a plan, and what it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ServedPicture:
    """What becomes of a picture in an engine.

    Attributes:
        size: of the picture in pixels, as the model's tower sees it.
        dense: its visual tokens without the plan.
        left: its visual tokens with the plan; None if a budget asks for more than it has, so that
            a request with such a picture is refused.
    """

    size: str
    dense: int
    left: int | None


class Server(Protocol):
    """A serving engine that can run plans.

    Attributes:
        name: of the engine.
    """

    name: str

    def arguments(self, plan: Path, model: str) -> Sequence[str]:
        """The engine's options for a plan on a model, each with its value, unquoted.

        Raises:
            TokenpruneError: what the engine can't serve, and what would be right.
        """
        ...

    def check(self, plan: Path, model: str) -> Sequence[ServedPicture]:
        """The counts by picture size, without starting the engine.

        Raises:
            TokenpruneError: what the engine can't serve, and what would be right.
        """
        ...
