"""The record of a benchmark, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.bench.run import BenchRow, BenchSettings
from tokenprune.bench.table import verdicts
from tokenprune.compare.record import write_text
from tokenprune.environment import describe_environment
from tokenprune.loading import LoadedMllm
from tokenprune.plan import Plan

SCHEMA_VERSION = 1

#: What `flops` counts, by the value of `--flops`.
MEANING = {
    "measured": "torch's FLOP counter over one call to the first token, selection included; a "
    "multiply-add is two operations",
    "formula": "2 n per linear weight and 4 n^2 d for attention in every block of tower and LLM, "
    "without norms, projector, head and selection; a multiply-add is two operations",
}


def bench_record(
    loaded: LoadedMllm,
    plans: Sequence[tuple[str, Plan]],
    settings: BenchSettings,
    backend: str,
    rows: Sequence[BenchRow],
) -> dict[str, Any]:
    """Plain data with everything needed to judge the numbers."""
    first = next(loaded.model.parameters())
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": loaded.name,
            "weights": loaded.weights,
            "sha256": loaded.fingerprint(),
            "device": str(first.device),
            "dtype": str(first.dtype).removeprefix("torch."),
            "attention": backend,
        },
        "settings": asdict(settings),
        "flops": MEANING[settings.flops],
        "environment": describe_environment(),
        "plans": {name: plan.model_dump(mode="json", exclude_none=True) for name, plan in plans},
        "rows": [asdict(row) for row in rows],
        "verdicts": verdicts(rows),
    }


def write_bench(record: Mapping[str, Any], path: Path) -> None:
    """Write it atomically.

    Raises:
        DataError: it can't be written.
    """
    write_text(path, json.dumps(record, indent=1) + "\n")
