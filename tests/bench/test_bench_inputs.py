"""`tokenprune bench` on frames, the user's own input, classifiers and compiled models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.compare.tiny import TIMM, save_llava, save_pictures, save_timm
from tests.models import PATCHES, pixels, timm_vit
from tokenprune.cli.app import app
from tokenprune.engine import attach
from tokenprune.interface.strategy import places
from tokenprune.lab.bench import compiling
from tokenprune.lab.bench.inputs import own_note
from tokenprune.lab.bench.rows import Lane, rows_of
from tokenprune.lab.bench.settings import BenchSettings
from tokenprune.lab.bench.workload import Workload, batches
from tokenprune.lab.data.question import Question
from tokenprune.plan import Plan, load_plan

STAGE = {"at": "encoder", "strategy": "tome", "keep": 0.5, "layer": 1}
HALF = "stages: [{at: pre_llm, strategy: uniform, keep: 0.5}]\n"
ENCODER = "stages: [{at: encoder, strategy: tome, keep: 0.5, layer: 1}]\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    save_llava(folder / "llava")
    save_timm(folder / "vit.safetensors")
    save_pictures(folder, 3)
    (folder / "half.yaml").write_text(HALF)
    (folder / "encoder.yaml").write_text(ENCODER)
    lines = [{"image": f"{n}.png", "question": "what is it"} for n in range(3)]
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def run(place: Path, *more: str) -> Any:
    out = place / "record.json"
    out.unlink(missing_ok=True)
    given = ["bench", "--rounds", "2", "--new-tokens", "1", "--out", str(out), *more]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    return json.loads(out.read_text())


def llava(place: Path) -> list[str]:
    return ["--model", str(place / "llava"), "--plans", str(place / "half.yaml")]


def vit(place: Path) -> list[str]:
    plans = ["--plans", str(place / "encoder.yaml")]
    return ["--model", TIMM, "--weights", str(place / "vit.safetensors"), *plans]


def test_frames_are_swept_and_cost_what_as_many_pictures_cost(place: Path) -> None:
    common = [*llava(place), "--batch-size", "2", "--flops", "formula"]
    rows = run(place, *common, "--frames", "1", "3")["rows"]
    pictures = run(place, *common, "--images", "3")["rows"]
    assert [row["workload"]["images"] for row in rows] == [1, 1, 3, 3]
    assert all(row["workload"]["video"] for row in rows)
    assert [row["tokens"]["llm"] for row in rows[2:]] == [PATCHES, PATCHES // 2]
    assert [row["flops"] for row in rows[2:]] == [row["flops"] for row in pictures]
    assert rows[0]["flops"] < rows[2]["flops"]


def test_the_users_prompts_are_measured(place: Path) -> None:
    record = run(place, *llava(place), "--questions", str(place / "mine.jsonl"))
    assert record["own_input"]["prompts"] == 3
    assert [row["workload"]["own"] for row in record["rows"]] == ["3 inputs of yours"] * 2
    assert record["notes"][0] == (
        "of your 3 inputs the first 2 (batch 1) are measured, a batch in each round: all of them "
        "take --rounds 3"
    )
    one = ["--picture", str(place / "0.png"), str(place / "1.png"), "--question", "what is it"]
    record = run(place, *llava(place), *one)
    assert record["own_input"]["prompts"] == 1
    assert record["rows"][0]["ttft"]["p50"] > 0


def test_operations_and_caches_are_of_all_inputs(place: Path) -> None:
    lines = [
        {"image": "0.png", "question": "what is it"},
        {"images": ["0.png", "1.png", "2.png"], "question": "what is it"},
    ]
    found = []
    for name, mine in (("one", lines[:1]), ("three", lines[1:]), ("both", lines)):
        path = place / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, mine)))
        found.append(run(place, *llava(place), "--questions", str(path))["rows"])
    for one, three, both in zip(*found, strict=True):
        assert one["flops"] < three["flops"]
        assert both["flops"] == (one["flops"] + three["flops"]) / 2
        assert both["cache"] == three["cache"]


def test_batches_of_the_users_input_are_filled_up_and_bounded_by_the_rounds() -> None:
    own = [Question(None, "", text) for text in "abcde"]
    parts = batches(Workload(batch=2), BenchSettings(rounds=9), own)
    assert ["".join(texts) for _, texts in parts] == ["ab", "cd", "ea"]
    assert len(batches(Workload(batch=2), BenchSettings(rounds=2), own)) == 2
    assert own_note(5, [Workload(batch=2)], rounds=3) is None
    assert "the first 2 (batch 1), the first 4 (batch 2)" in str(
        own_note(5, [Workload(batch=batch) for batch in (1, 2, 3)], rounds=2)
    )


def test_a_classifier_has_one_pass_and_no_tokens_to_wait_for(place: Path) -> None:
    record = run(place, *vit(place), "--batch-size", "2")
    dense, pruned = record["rows"]
    assert record["model"]["kind"] == "classifier"
    assert (dense["ttft"], dense["token"], dense["cache"]) == (None, None, None)
    assert 0 < pruned["flops"] < dense["flops"]
    assert pruned["tokens"]["encoder"] == dense["tokens"]["encoder"] // 2
    assert pruned["stages"]["select"] > 0
    formula = run(place, *vit(place), "--batch-size", "2", "--flops", "formula")["rows"]
    assert 0.7 < formula[0]["flops"] / dense["flops"] < 1.1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--frames", "2", "--images", "2"], "an image or a frame"),
        (["--question", "what"], "no picture to ask"),
        (["--picture", "0.png", "--size", "48"], "says that itself"),
        (["--picture", "missing.png", "--question", "what"], "no picture 'missing.png'"),
        (["--compile", "fast"], "no mode 'fast'"),
        (["--compile", "reduce-overhead"], "growing KV cache"),
    ],
)
def test_contradictions_are_refused(place: Path, more: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *llava(place), *more])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


def test_plans_without_static_length_are_not_compiled(place: Path) -> None:
    from tokenprune.plugins.host import host

    kinds = host().strategies.values()
    name = next(k.name for k in kinds if k.length == "own" and "pre_llm" in places(k))
    plan = place / "own.yaml"
    plan.write_text(f"stages: [{{at: pre_llm, strategy: {name}}}]\n")
    given = ["bench", "--model", str(place / "llava"), "--plans", str(plan)]
    result = CliRunner().invoke(app, [*given, "--compile", "default"])
    assert result.exit_code == 2
    assert f"'{name}' decides at run time" in " ".join(result.output.split())


def test_a_compiled_copy_answers_alike_and_shares_its_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    model, plan = timm_vit(), load_plan({"stages": [STAGE]})
    with torch.no_grad(), compiling.room():
        with attach(model, plan):
            expected = model(pixels())
        lane = compiling.compiled(Lane("tome", plan, model), "default")
        assert next(lane.model.parameters()) is next(model.parameters())
        compiling.settle(lane, lambda: lane.model(pixels()))
        before = compiling.compilations()
        torch.testing.assert_close(lane.model(pixels()), expected)
        assert compiling.compilations() == before > 0


def test_compiled_rows_stand_beside_the_others(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    more = ["--batch-size", "1", "--rounds", "2", "--compile", "default"]
    lines: list[str] = []
    monkeypatch.setattr("tokenprune.cli.bench.notice", lines.append)
    rows = run(place, *vit(place), *more)["rows"]
    assert len(lines) == 1
    assert lines[0].startswith("compiling took 0 min")
    assert "in the 1 to come for" in lines[0]
    names = ["dense", "encoder", "dense, compiled", "encoder, compiled"]
    assert [row["name"] for row in rows] == names
    assert [row["compiled"] for row in rows] == [False, False, True, True]
    assert [row["baseline"] for row in rows].count(True) == 1
    assert rows[3]["flops"] == rows[1]["flops"]


def test_the_faster_dense_row_is_the_baseline() -> None:
    slow = Lane("dense", None, torch.nn.Identity(), first=[3.0, 3.0])
    fast = Lane("dense", None, torch.nn.Identity(), twin=slow, first=[2.0, 2.0])
    plan = Lane("half", Plan(), torch.nn.Identity(), first=[1.0, 1.0])
    rows = rows_of([slow, fast, plan], Workload(), 0.0)
    assert [row.baseline for row in rows] == [False, True, False]
    assert rows[2].speedup.median == 2.0
