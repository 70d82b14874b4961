"""The benchmark page's part about speed."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any


def row(name: str, **changes: Any) -> dict[str, Any]:
    workload = {"batch": 8, "images": 1, "height": 336, "width": 336, "video": False, "own": ""}
    found = {
        "name": name, "workload": workload, "ttft": {"p50": 0.02, "p95": 0.03}, "token": 0.001,
        "total": {"p50": 0.1, "p95": 0.1}, "baseline": False, "flops": 2.5e9, "peak": 12_000_000,
        "speedup": {"median": 0.5, "low": 0.4, "high": 0.6}, "cache": 500_000,
        "stages": {"load": 0.004, "encode": 0.005},
    }  # fmt: skip
    return {**found, **changes}


def test_a_record_is_shown_with_its_losses(benchmarks: ModuleType, tmp_path: Path) -> None:
    record = {
        "environment": {"threads": 2},
        "model": {"name": "tiny", "dtype": "float32", "device": "cpu", "attention": "sdpa"},
        "settings": {"rounds": 7},
        "flops": "counted",
        "rows": [row("dense", baseline=True), row("slow", peak=None)],
        "verdicts": ["slow: a net loss: 2.00x slower than dense", "fast: 2.00x faster than dense"],
    }
    (tmp_path / "bench.json").write_text(json.dumps(record))
    page = benchmarks.benchmarks(tmp_path)
    assert "| batch 8, 336x336 | dense | 20.0 | 30.0 | 1.0 |  | 2.50 | 12.0 | 0.50 |" in page
    assert "| batch 8, 336x336 | slow | 20.0 | 30.0 | 1.0 | 0.50 [0.40 0.60] | 2.50 | - |" in page
    assert "| batch 8, 336x336 | dense | 4.0 | 5.0 | - |" in page
    assert "- slow: a net loss" in page
    assert "fast: 2.00x" not in page
    assert page.count("with so few rounds (7), p95 is nearly the slowest") == 1


def test_notes_and_backends_that_differ_are_shown(benchmarks: ModuleType, tmp_path: Path) -> None:
    rows = [row("dense", attention="sdpa"), row("dense", attention="eager")]
    record = {
        "environment": {"threads": 2},
        "model": {"name": "t", "dtype": "f", "device": "cpu", "attention": "sdpa, eager"},
        "settings": {"rounds": 21},
        "flops": "counted",
        "rows": rows,
        "verdicts": [],
        "notes": ["the size makes no difference"],
    }
    (tmp_path / "bench.json").write_text(json.dumps(record))
    page = benchmarks.benchmarks(tmp_path)
    assert "Note: the size makes no difference." in page
    assert "p95 is" not in page
    assert "| dense (sdpa) | 20.0 |" in page
    assert "| dense (eager) | 20.0 |" in page
