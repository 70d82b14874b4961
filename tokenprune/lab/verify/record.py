"""What verifying found: one row an invariant, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["pass", "fail", "does not apply"]
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class InvariantRow:
    """One invariant on one model.

    Attributes:
        key: short name, the same in every version.
        invariant: what must hold.
        status: whether it does.
        difference: largest difference that was measured, as a share of the largest value that it
            is compared with; of `counts` and `generation`, in tokens. None if nothing was compared.
        tolerance: largest difference that passes (ours).
        dtype: floating-point type that the model ran in.
        compared: what was compared, in words.
        note: why it fails or doesn't apply, or what it doesn't cover.
    """

    key: str
    invariant: str
    status: Status
    difference: float | None = None
    tolerance: float | None = None
    dtype: str = ""
    compared: str = ""
    note: str = ""


@dataclass(frozen=True)
class Verification:
    """All rows, and what they were measured with.

    Attributes:
        model: name, class, weights, SHA-256 and device.
        plan: name, SHA-256 of its YAML and the plan itself.
        inputs: prompts, pictures and questions.
        settings: new tokens and the dtypes.
        environment: versions, processor, threads.
        rows: one an invariant.
        created: when it ended, UTC, ISO 8601.
        schema_version: of this format.
    """

    model: dict[str, Any]
    plan: dict[str, Any]
    inputs: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    rows: Sequence[InvariantRow]
    created: str
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def failed(self) -> list[InvariantRow]:
        """Rows that must hold and don't."""
        return [row for row in self.rows if row.status == "fail"]

    def row(self, key: str) -> InvariantRow:
        """The row of that key."""
        return next(row for row in self.rows if row.key == key)

    def data(self) -> dict[str, Any]:
        """Plain data for JSON; differences that are no numbers become text."""
        found = {"schema_version": self.schema_version, "passed": not self.failed, **asdict(self)}
        for row in found["rows"]:
            if row["difference"] is not None and not math.isfinite(row["difference"]):
                row["difference"] = str(row["difference"])
        return found
