"""The page about lmms-eval: its numbers are those of the record, its names those that exist."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

from tokenprune_adapters.lmms_eval.arguments import Arguments
from tokenprune_adapters.lmms_eval.manifests import MODELS

from benchmarks.lmms_eval_agreement import PLANS
from tests.conftest import ROOT
from tokenprune.plan import load_plan

PAGE = (ROOT / "docs" / "lmms-eval.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "benchmarks/records/lmms_eval.json").read_text(encoding="utf-8"))


def test_every_row_of_the_record_is_on_the_page() -> None:
    for row in RECORD["rows"]:
        tokens = row["tokens"].get("llm_average", row["compare_tokens"]["llm_average"])
        shown = f"{100 * row['accuracy']:.1f} | {100 * row['compare_accuracy']:.1f}"
        line = f"| `{row['model']}` | {row['plan']} | {tokens:.1f} | {shown} |"
        assert f"{line} {row['different_answers']} |" in PAGE
    for part in ("lmms-eval", "transformers", "torch"):
        assert f"{part} {RECORD['harness'][part]}" in PAGE
    assert f"{RECORD['samples']} questions" in PAGE


def test_the_record_is_of_the_default_plans_and_agrees() -> None:
    named = {load_plan(ROOT / plan).name for plan in PLANS}
    assert named == RECORD["plans"].keys()
    assert RECORD["agrees"] is all(row["agrees"] for row in RECORD["rows"]) is True


def test_models_and_arguments_are_told() -> None:
    for name in (*MODELS, *(field.name for field in fields(Arguments))):
        assert f"`{name}`" in PAGE or f"`--{name}`" in PAGE, name


def test_the_record_names_no_folder_of_a_machine() -> None:
    assert str(Path.home()) not in json.dumps(RECORD)
    assert "/tmp" not in json.dumps(RECORD)
