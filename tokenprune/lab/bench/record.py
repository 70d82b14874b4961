"""The record of a benchmark, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tokenprune.interface.loading import LoadedClassifier, LoadedDual, LoadedMllm, LoadedModel
from tokenprune.lab.bench.rows import BenchRow, attention_of
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.table import verdicts
from tokenprune.lab.data.opening import revision
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.files import write_text
from tokenprune.lab.models import shown_name
from tokenprune.plan import Plan

SCHEMA_VERSION = 1

KINDS = {LoadedMllm: "mllm", LoadedClassifier: "classifier", LoadedDual: "dual"}

#: What `flops` counts, by the value of `--flops`.
MEANING = {
    "measured": "torch's FLOP counter over one call to the first token (of classifiers: one pass), "
    "selection and padding included; a multiply-add is two operations",
    "formula": "2 n per linear weight and 4 n^2 d for attention in every block of tower and LLM, "
    "padding included, without norms, projector, head and selection; in blocks with windows, what "
    "is left counts as evenly spread over them; a multiply-add is two operations",
}


def bench_record(
    loaded: LoadedModel,
    plans: Sequence[tuple[str, Plan]],
    settings: BenchSettings,
    rows: Sequence[BenchRow],
    own: Sequence[Question] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Plain data with everything needed to judge the numbers.

    Args:
        loaded: the model.
        plans: name and plan, as given; videos ran them as `on_clips` says.
        settings: how it was measured.
        rows: what was measured.
        own: the user's own input, of which the record holds a SHA-256.
        notes: what else a reader has to know.
    """
    first = next(loaded.model.parameters())
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {
            "name": shown_name(loaded.name),
            "kind": KINDS[type(loaded)],
            "weights": loaded.weights,
            "sha256": loaded.fingerprint(),
            "device": str(first.device),
            "dtype": str(first.dtype).removeprefix("torch."),
            "attention": ", ".join(attention_of(rows)),
        },
        "settings": asdict(settings),
        "flops": MEANING[settings.flops],
        "own_input": {"prompts": len(own), "sha256": revision(own)} if own else None,
        "environment": describe_environment(),
        "plans": {name: plan.model_dump(mode="json", exclude_none=True) for name, plan in plans},
        "rows": [asdict(row) for row in rows],
        "verdicts": verdicts(rows),
        "notes": list(notes),
    }


def write_bench(record: Mapping[str, Any], path: Path) -> None:
    """Write it atomically.

    Raises:
        DataError: it can't be written.
    """
    write_text(path, json.dumps(record, indent=1) + "\n")
