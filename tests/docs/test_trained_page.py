"""The page of trained checkpoints says what their records say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("generators.trained")


def record(**point: float) -> dict[str, Any]:
    row = {"label": "vistog 16", "llm_average": 16.0, "accuracy": 0.8125, "interval": [0.75, 0.875]}
    return {
        "strategy": "vistog",
        "checkpoints": {
            "reference-16": {
                "training": {
                    "checkpoint": {"parameters": 12345, "bytes": 678000},
                    "settings": {"steps": 40, "batch_size": 48, "shared": 6, "lr": 0.002},
                    "seconds": 120.0,
                    "curve": [
                        {"step": step, "phase": "answers", "loss": 1.0 / step, **point}
                        for step in range(1, 41)
                    ],
                },
                "heldout": {"questions": 300, "rows": [row], "lost_by_type": {"digit": 0.125}},
            }
        },
    }


def test_the_page_holds_the_records_numbers(page: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "training_vistog.json").write_text(json.dumps(record(accuracy=0.5)))
    text = page.trained_checkpoints(tmp_path)
    for part in (
        "## vistog: `bundled:reference-16`",
        "12,345 parameters, 0.68 MB. 40 steps of 48 questions, 6 a picture",
        "| vistog 16 | 16.0 | 81.2 | 75.0 to 87.5 |",
        "by type of question: digit 12.5.",
        "| 1 | answers | 1.000 | 0.500 |",
        "| 40 | answers | 0.025 | 0.500 |",
    ):
        assert part in text
    assert text.count("| answers |") == page.POINTS


def test_without_records_it_says_so(page: ModuleType, tmp_path: Path) -> None:
    assert "No record yet." in page.trained_checkpoints(tmp_path)
