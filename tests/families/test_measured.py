"""`compare`, studies and `bench` on checkpoints of families: plans before and inside the LLM."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import tokenprune
from tests.families.calls import case_of, logits
from tests.families.cases import CASES
from tests.families.cells import UNFOLLOWED
from tests.families.plans import plan, staged
from tests.studies.conftest import save_study
from tokenprune.cli.app import app
from tokenprune.engine.adapters import choose_adapter, choose_encoder
from tokenprune.errors import DataError
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.bench.formula import watched
from tokenprune.lab.data.question import Question
from tokenprune.lab.measure.checks import failed_checks
from tokenprune.lab.measure.entries import Entry
from tokenprune.lab.measure.run import measure
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.studies import Store, load_study, run_study
from tokenprune.ops.flops import count_flops
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host

Load = Callable[[str], LoadedMllm]
NO_FORMULA = ("gemma4", "gemma4-shared", "mistral3", "llava_pixtral", "perception_lm")
NO_FORMULA += (
    "ernie4_5_vl_moe",
    "glm4v_moe",
    "qwen3_vl_moe",
    "qwen3_omni_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen4_exp",
    "glm5_next",
    "mistral_large4",
    "lfm2_vl",
    "minicpmv4_6",
    "minicpm_ocr",
    "minicpmv4_7",
    "kimi_k25",
    "minimax_m3_vl",
    "lighton_ocr",
    "muse_spark",
    "step3p7",
    "dots3_note",
    "hy_v4_vl",
)
NO_FORMULA += (*UNFOLLOWED, "llama4")
"""Towers that aren't followed, experts, linear attention."""
FOLLOWED = [name for name in CASES if name not in NO_FORMULA]
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


def counted(model: Any, blocks: Sequence[nn.Module], call: dict[str, Any]) -> int:
    """Operations that torch's counter sees inside of some blocks, each ran as a whole."""
    total, begun = 0, 0

    def begin(*_: Any) -> None:
        nonlocal begun
        begun = counter.total

    def end(*_: Any) -> None:
        nonlocal total
        total += counter.total - begun

    hooks = [block.register_forward_pre_hook(begin) for block in blocks]
    hooks += [block.register_forward_hook(end) for block in blocks]
    with count_flops() as counter:
        logits(model, call)
    for hook in hooks:
        hook.remove()
    return total


def blocks_of(model: Any) -> list[nn.Module]:
    """All blocks that the formula counts: of towers and of the LLM."""
    spec = choose_adapter(model).spec()
    modules = [spec.tower] if spec.tower else [m.tower.module for m in spec.modalities.values()]
    towers = {id(module): module for module in modules}
    found = [block for tower in towers.values() for block in choose_encoder(tower).spec().blocks]
    return [*found, *spec.layers]


@pytest.mark.parametrize("stages", [None, "both"], ids=["dense", "pruned"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_the_formula_is_what_the_counter_sees_in_blocks(name: str, stages: str | None) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("several")
    # a picture's features are made at every call of the core
    wanted = staged(name, stages, 0.5) if stages else {"stages": []}
    with tokenprune.attach(model, wanted):
        seen = counted(model, blocks_of(model), call)
        with watched(model) as formula:
            logits(model, call)
    # the counter sees the selection too, an operation for each token to choose from
    chosen = 0 if stages is None else int(case.placeholders(call).sum())
    assert 0 < formula.flops <= seen <= formula.flops + chosen


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "qwen2_5_vl", "internvl"])
def test_the_formula_follows_plans_inside_the_tower(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    stage = {"strategy": "random", "at": "encoder", "keep": 0.5}
    blocks = blocks_of(model)
    with tokenprune.attach(model, plan({"strategy": "random", "at": "pre_llm", "keep": 0.5})):
        late = counted(model, blocks, call)
    with tokenprune.attach(model, plan(stage)):
        seen = counted(model, blocks, call)
        with watched(model) as formula:
            logits(model, call)
    # the block that removes runs its attention on all tokens
    assert formula.flops < seen < late
    assert formula.flops > 0.7 * seen


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("qwen3_vl_moe", "has experts"),
        ("mistral3", "parted by picture"),
        ("qwen3_5", "keeps no keys"),
    ],
)
def test_what_has_no_formula_is_refused(name: str, words: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    with pytest.raises(DataError, match=words) as caught, watched(model):
        logits(model, call)
    assert "--flops measured" in caught.value.remedy


def test_bench_counts_a_family_by_formula(folder: Callable[[str], Path], tmp_path: Path) -> None:
    code, said = bench(folder("qwen2_vl"), tmp_path, "formula")
    assert code == 0, said
    dense, pruned = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert 0 < pruned["flops"] < dense["flops"]
