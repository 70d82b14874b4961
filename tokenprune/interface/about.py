"""What listings say of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Facts about a strategy, stated by its author; what is left out is shown as "not stated".

    Attributes:
        summary: one line for tables.
        paper: title and number of the paper.
        licence: what the code was written from, and under which licence it is.
        ours: parameters whose default isn't the paper's, with the reason; empty if all defaults
            are the paper's, None if the author doesn't say whose they are.
    """

    summary: str = ""
    paper: str = ""
    licence: str = ""
    ours: Mapping[str, str] | None = None
