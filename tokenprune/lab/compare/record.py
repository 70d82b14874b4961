"""The record of a comparison: everything needed to judge it, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.files import write_text
from tokenprune.lab.measure.statistics import Interval
from tokenprune.plan import dump_plan

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """A finished comparison.

    Attributes:
        kind: `mllm`, `classifier` or `dual`.
        created: when it ended, UTC, ISO 8601.
        elapsed: seconds that the run took which ended it, loading included.
        model: name, weights, SHA-256, parameters, device and dtype.
        task: where the samples come from, their SHA-256, and how many there are.
        settings: batch size, seed and the like.
        environment: versions, processor, threads.
        dense: the model alone.
        results: one a plan.
        failures: what doesn't hold; empty if all is well.
        left_out: default plans that don't run on this model, with the reason.
        resumed: how many `batches` earlier runs measured that were interrupted, `of` how many over
            all processes and passes; empty for a run in one go.
        probe: by place, mean similarity of what is read from unpruned and from empty tokens.
        journals: that it was measured into, for `journal.forget`; no part of the data.
        schema_version: of this format.
    """

    kind: str
    created: str
    elapsed: float
    model: dict[str, Any]
    task: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, Any]
    dense: Result
    results: list[Result]
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    probe: dict[str, dict[str, float]] = field(default_factory=dict)
    resumed: dict[str, int] = field(default_factory=dict)
    journals: list[Path] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    def data(self, answers: bool = False) -> dict[str, Any]:
        """Plain data; answers to single samples, and which are right, only if asked for."""
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        del own["journals"]
        own["dense"] = row_data(self.dense, answers)
        own["results"] = [row_data(result, answers) for result in self.results]
        data: dict[str, Any] = _plain({"schema_version": self.schema_version, **own})
        return data


def row_data(result: Result, answers: bool = False) -> dict[str, Any]:
    """One row of the record.

    Args:
        result: the row.
        answers: also the answers to single samples, and which are right.
    """
    entry, run = result.run.entry, result.run
    single = {"answers": run.answers, "right": [bool(one) for one in run.right]}
    shared = ("accuracy", "retention", "difference", "agreement", "mcnemar", "by_type")
    counted = ("tokens", "lengths")
    timed = ("seconds", "time", "total", "probe")
    return {
        "name": entry.name,
        "keep": entry.keep,
        "meaning": entry.meaning,
        "group": entry.group,
        "budget": entry.peers,
        "positions": result.positions,
        "plan": dump_plan(entry.plan),
        **{name: getattr(result, name) for name in (*shared, "versus_random", *counted)},
        "flops": run.flops,
        "flops_samples": run.counted,
        **{name: getattr(result, name) for name in ("flops_ratio", *timed)},
        "marks": result.warnings,
        **(single if answers else {}),
    }


def write_record(comparison: Comparison, path: Path, *, answers: bool = False) -> None:
    """Write the record as JSON; an older file is replaced as a whole or not at all.

    Raises:
        DataError: the file can't be written.
    """
    write_text(path, json.dumps(comparison.data(answers), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    """JSON knows no nan and no infinity: both become null."""
    if isinstance(value, Interval):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
