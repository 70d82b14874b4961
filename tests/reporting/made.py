"""Records as studies write them, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tokenprune.lab.studies.samples import thumbnail
from tokenprune.lab.studies.store import Record, Store

#: Names and texts that would do harm if anything wrote them as they are.
HOSTILE = '<script>document.title="broken"</script>"><img src=x onerror=alert(1)> $x_{ | {{7*7}}'
SIX = (True, True, False, True, False, True)


def record(
    name: str,
    strategy: str | None,
    right: Sequence[bool] = SIX,
    *,
    keep: int = 8,
    time: float = 0.5,
    text: str = "what is it ?",
    frames: int = 1,
    **about: Any,
) -> Record:
    """One cell on six questions about six pictures of 4 x 4 patches."""
    stages = [{"at": "pre_llm", "strategy": strategy, "keep": keep}] if strategy else []
    tokens = float(keep) if strategy else 16.0
    picture = thumbnail(Image.new("RGB", (32, 32), "teal"))
    kept = keep if strategy else 16
    owner = [place if place < kept else -1 for place in range(16)]
    shown = [{"picture": picture, "grid": [4, 4], "owner": owner}] * frames
    kinds = ("a", "b", text) * 2
    identity = {
        "name": name,
        "plan": {"schema_version": 1, "seed": 0, "stages": stages},
        "task": {"kind": "jsonl"},
        "model": {"name": "toy"},
        "weights": "w",
        "data": "d",
        "settings": {"batch_size": 3, "seed": 0},
        "environment": {"processor": HOSTILE, "packages": {"torch": "2.15.0"}},
    }
    result = {
        "samples": [
            {
                "group": number,
                "kind": kind,
                "answer": "yes" if good else "no",
                "right": good,
                "scores": {"accuracy": float(good), "length": 3.0 - good},
            }
            for number, (good, kind) in enumerate(zip(right, kinds, strict=True))
        ],
        "tokens": {"patches": 16.0, "llm": tokens, "llm_average": tokens},
        "seconds": {"encode": 0.2 * time, "prefill": 0.7 * time, "decode": 0.1 * time},
        "wall": [time, time],
        "dense_wall": [1.0, 1.0],
        "flops": 1e9 * (tokens + 4),
        "dense_flops": 2e10,
        "peak_bytes": 1_000_000,
        "failures": [],
        "shown": [{"question": text, "frames": shown}],
    }
    return Record({**identity, **about}, "done", result)


def failed(name: str, reason: str) -> Record:
    """A cell that failed."""
    return Record(record(name, "fastv").identity, "failed", {"reason": reason})


def save(folder: Path, records: Sequence[Record], name: str = "a study") -> Path:
    """A folder of records with its note."""
    store = Store(folder)
    for one in records:
        store.write(one)
    store.note(name, [one.key for one in records])
    return folder
