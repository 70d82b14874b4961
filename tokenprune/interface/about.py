"""What listings say of a strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """Facts about a strategy, stated by its author; what is left out is shown as "not stated".

    Attributes:
        summary: one line for tables.
        paper: title and number of the paper.
        licence: what the code was written from, and under which licence it is.
        ours: parameters whose default is nobody else's, with the reason; None if the author
            doesn't say whose the defaults are.
        borrowed: parameters whose default is in published code and not in the paper, with whose
            code it is. All other defaults are the paper's.
    """

    summary: str = ""
    paper: str = ""
    licence: str = ""
    ours: Mapping[str, str] | None = None
    borrowed: Mapping[str, str] = field(default_factory=dict)
