"""FLOPs and peak memory are those of the data, whatever the size of its first picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import tokenprune
from tests.families import checkpoints
from tests.families.cases import CASES
from tokenprune.engine.meter import Meter
from tokenprune.interface.loading import LoadedMllm, LoadOptions
from tokenprune.lab.compare.matching import equal_cost
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.counting import counted_batches
from tokenprune.lab.measure.entries import Entry, strategy_entry
from tokenprune.lab.measure.measurement import Measured
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.models import load_model
from tokenprune.lab.report.folder import read_results
from tokenprune.lab.report.page import html
from tokenprune.lab.studies import Store, load_study, run_study
from tokenprune.lab.studies.summary import summarise
from tokenprune.ops.flops import count_flops
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

#: The first picture is the smallest, and one in the middle is the largest.
SIDES = (16, 40, 56, 70, 56, 40, 40)
PLAN = {"stages": [{"at": "pre_llm", "strategy": "uniform", "keep": 0.5}]}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes a picture in its own size."""
    folder = tmp_path_factory.mktemp("qwen") / "model"
    checkpoints.save(CASES["qwen2_vl"], folder)
    return folder


@pytest.mark.parametrize(
    ("batches", "counted"),
    [
        (1, [0]),
        (3, [0, 1, 2]),
        (4, [0, 1, 2, 3]),
        (7, [0, 2, 4, 6]),
        (25, [0, 8, 16, 24]),
        (41, [0, 8, 16, 24, 32, 40]),
    ],
)
def test_counted_batches_are_spread_over_all(batches: int, counted: list[int]) -> None:
    assert sorted(counted_batches(batches)) == counted


def test_operations_are_the_mean_over_pictures_of_all_sizes(qwen: Path) -> None:
    loaded = load_model(str(qwen), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    asked = [
        Question(Image.new("RGB", (side, side), "red"), "a", "what?", "", number)
        for number, side in enumerate(SIDES)
    ]
    task = VqaTask(loaded, asked, 1, new_tokens=1)
    plan = load_plan(PLAN)
    found = measure(task, [Entry("half", plan)])
    dense: list[int] = []
    pruned: list[int] = []
    for batch in task.batches:
        inputs = task.inputs(batch)
        with torch.no_grad(), count_flops() as counter:
            task.call(inputs)
        dense.append(counter.total)
        with torch.no_grad(), tokenprune.attach(task.model, plan), count_flops() as counter:
            task.call(inputs)
        pruned.append(counter.total)
    chosen = [0, 2, 4, 6]
    (row,) = found.plans
    assert found.dense.counted == row.counted == len(chosen)
    assert found.dense.flops == pytest.approx(sum(dense[i] for i in chosen) / len(chosen))
    assert row.flops == pytest.approx(sum(pruned[i] for i in chosen) / len(chosen))
    assert found.dense.flops > 2 * dense[0]
    assert list(found.largest) == [SIDES.index(max(SIDES))]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_tokens_of_pictures_that_lose_none_are_in_the_mean(qwen: Path, batch_size: int) -> None:
    """In a batch of its own such a picture counted as 0 tokens inside of the tower."""
    loaded = load_model(str(qwen), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    asked = [
        Question(Image.new("RGB", (side, side), "red"), "a", "what?", "", number)
        for number, side in enumerate((16, 56, 40))
    ]
    task = VqaTask(loaded, asked, batch_size, new_tokens=1)
    plan = load_plan({"stages": [{"at": "encoder", "strategy": "uniform", "keep": 4}]})
    (row,) = measure(task, [Entry("four", plan)]).plans
    assert row.tokens["units"] > 4
    assert row.tokens["encoder_inside"] == row.tokens["encoder"] == row.tokens["llm"] == 4


def test_means_of_batches_are_weighted_by_what_each_stage_counts() -> None:
    """Words are counted by prompt, and a prompt may have several pictures."""
    row = Measured(None)
    for prompts, pictures, words in ((1, 5, 10), (1, 1, 20), (2, 0, 50)):
        meter = Meter()
        meter.count("text[2]", words, prompts)
        meter.count("units", 9 * pictures, pictures)
        row.count(meter)
    assert row.tokens == {"text[2]": 80 / 4, "units": 9}


def test_a_study_says_what_it_counted_on(qwen: Path, tmp_path: Path) -> None:
    rows = []
    for number, side in enumerate(SIDES):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "what?", "answer": "a"})
    peaks = []
    for name, some in (("all", rows), ("first", rows[:1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        data = {
            "out": name,
            "models": [{"name": str(qwen)}],
            "tasks": [{"kind": "jsonl", "path": f"{name}.jsonl"}],
            "plans": [{"name": "half", "plan": PLAN}],
            "batch_size": 1,
            "new_tokens": 1,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(data))
        study = load_study(path)
        assert not run_study(study).failed
        records, _ = Store(study.out).records()
        peaks.append([record.result["peak_bytes"] for record in records])
    of_all, of_first = peaks
    assert min(of_all) > max(of_first)
    results = read_results(tmp_path / "all")
    groups = summarise(results.records)
    said = " ".join(html(results, groups).split())
    assert "FLOPs were counted on 4 of 7 samples, of batches spread evenly over all." in said


def test_a_cost_is_solved_for_on_samples_spread_over_all(
    qwen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(str(qwen), LoadOptions())
    assert isinstance(loaded, LoadedMllm)
    asked = [
        Question(Image.new("RGB", (side, side), "red"), "a", "what?", "", number)
        for number, side in enumerate(SIDES)
    ]
    asked[0] = Question(Path("absent.png"), "a", "what?", "", 0)
    task = VqaTask(loaded, asked, 1, new_tokens=1)
    sizes = [task.inputs([one])["pixel_values"].shape[0] for one in asked[1:]]
    seen, call = [], VqaTask.call

    def watched(self: VqaTask, inputs: dict[str, Any]) -> torch.Tensor:
        seen.append(inputs["pixel_values"].shape[0])
        return call(self, inputs)

    monkeypatch.setattr(VqaTask, "call", watched)
    entry = strategy_entry(host().strategies["uniform"], 8, "pre_llm")
    (row,), left_out = equal_cost(task, [entry], "flops", host().strategies)
    assert left_out == []
    assert row.plan.stages[0].keep == 8
    assert set(seen) == {sizes[number - 1] for number in (2, 4, 6)}
