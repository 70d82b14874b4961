"""`compare`, studies and `bench` on checkpoints of families: plans before and inside the LLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.families.plans import staged
from tests.studies.conftest import save_study
from tokenprune.cli.app import app
from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.probe.capture import Reader
from tokenprune.lab.studies import Store, load_study, run_study
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

Load = Callable[[str], LoadedMllm]
SHOWN = ["llava_next", "qwen2_5_vl", "qwen3_vl_moe", "idefics3", "gemma3", "mistral3"]


@pytest.mark.parametrize("name", SHOWN)
def test_counts_and_answers_are_the_plans(name: str, load: Load) -> None:
    sizes = (((60, 40), "what?"), ((50, 90), "how many of them?"))
    asked = [
        Question(Image.new("RGB", size, "red"), "a", text, "", number)
        for number, (size, text) in enumerate(sizes)
    ]
    plan = load_plan({**staged(name, "both", 0.5), "name": "both"})
    found = measure(VqaTask(load(name), asked, 2, new_tokens=2), [Entry("both", plan)])
    assert failed_checks(found, host().strategies) == []
    (row,) = found.plans
    assert 0 < row.tokens["llm_average"] < row.tokens["llm"] <= row.tokens["units"] / 2
    assert len(row.answers) == len(asked)
    assert 0 < row.flops < found.dense.flops


def test_a_study_shows_what_was_kept_of_a_picture(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    path = save_study(folder("internvl"), tmp_path)
    data = yaml.safe_load(path.read_text())
    data["plans"] = [{"name": "half", "plan": staged("internvl", "pre_llm", 0.5)}]
    path.write_text(yaml.safe_dump(data))
    study = load_study(path)
    assert not run_study(study).failed
    records, _ = Store(study.out).records()
    frames = [
        frame
        for record in records
        for sample in record.result["shown"]
        for frame in sample["frames"]
    ]
    assert frames
    assert all(len(one["owner"]) == one["grid"][0] * one["grid"][1] for one in frames)


def bench(folder: Path, tmp_path: Path, flops: str) -> tuple[int, str]:
    plan = tmp_path / "half.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: uniform, keep: 0.5}]\n")
    given = ["bench", "--model", str(folder), "--plans", str(plan), "--size", "60x40"]
    given += ["--rounds", "2", "--new-tokens", "2", "--flops", flops]
    result = CliRunner().invoke(app, [*given, "--out", str(tmp_path / "bench.json")])
    return result.exit_code, " ".join(result.output.split())


def test_bench_times_a_family(folder: Callable[[str], Path], tmp_path: Path) -> None:
    code, said = bench(folder("qwen2_vl"), tmp_path, "measured")
    assert code == 0, said
    dense, pruned = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert pruned["tokens"]["llm"] == dense["tokens"]["llm"] // 2
    assert 0 < pruned["flops"] < dense["flops"]


def test_what_needs_a_tower_of_whole_pictures_is_refused(
    folder: Callable[[str], Path], load: Load, tmp_path: Path
) -> None:
    code, said = bench(folder("qwen2_vl"), tmp_path, "formula")
    assert code == 2
    assert "Use --flops measured" in said
    with pytest.raises(DataError, match="isn't followed"):
        Reader(load("qwen2_vl").model, ("projector",))
