"""`tokenprune bench` and its parts, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tests.compare.tiny import save_llava
from tests.models import IMAGE_TOKEN, PATCHES, llava_clip, llava_inputs
from tokenprune.cli.app import app
from tokenprune.engine.attach import attach
from tokenprune.errors import DataError
from tokenprune.lab.bench.formula import watched
from tokenprune.lab.bench.timer import Speedup
from tokenprune.lab.bench.workload import parse_size, workloads
from tokenprune.lab.measure.environment import describe_environment
from tokenprune.lab.measure.memory import peak_bytes
from tokenprune.ops.flops import count_flops
from tokenprune.plan import load_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def llava_of(language: Any) -> Any:
    """LLaVA with another LLM than the helpers have."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = llava_clip().config
    built = LlavaConfig(**{**config.to_dict(), "text_config": language})
    return LlavaForConditionalGeneration(built).eval()


SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 128,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip


def by_formula(model: torch.nn.Module, **inputs: Any) -> float:
    with torch.no_grad(), watched(model) as seen:
        model(**inputs)
    return seen.flops


def test_the_formula_takes_the_width_of_the_heads() -> None:
    from transformers import Qwen3Config

    model, words, sizes = llava_of(Qwen3Config(**SIZES)), [1, IMAGE_TOKEN, 6], (32, 64, 4, 2, 16)
    width, inner, heads, shared, channels = sizes
    count, seen = PATCHES + 2, PATCHES + 1
    projections = width * channels * (heads + 2 * shared) + heads * channels * width
    layer = 2 * count * (projections + 3 * width * inner) + 4 * count**2 * heads * channels
    vision = model.config.vision_config
    channels, inner = vision.hidden_size, vision.intermediate_size
    block = 2 * seen * (4 * channels**2 + 2 * channels * inner) + 4 * seen**2 * channels
    # the tower's last block isn't read, and runs
    expected = vision.num_hidden_layers * block + 2 * layer
    assert by_formula(model, **llava_inputs([words])) == expected


def test_the_formula_counts_the_padding_of_a_batch() -> None:
    model, words = llava_clip(), [1, IMAGE_TOKEN, *range(6, 26)]
    padded = llava_inputs([words, words[:3]])
    assert (padded["attention_mask"] == 0).any()
    assert by_formula(model, **padded) == by_formula(model, **llava_inputs([words, words]))


def test_prompts_with_unlike_numbers_of_pictures_have_a_formula() -> None:
    model, one, two = llava_clip(), [1, IMAGE_TOKEN, 6], [1, IMAGE_TOKEN, 6, IMAGE_TOKEN, 7]
    inputs = llava_inputs([one, two])
    with count_flops() as counter:
        found = by_formula(model, **inputs)
    assert 0.8 * counter.total < found < counter.total


def test_tokens_that_a_plan_restores_count_in_no_block_that_ran_without_them() -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=6).eval()
    plan = load_plan({"stages": [{"at": "encoder", "strategy": "ipcv", "keep": 0.5}]})
    dense = by_formula(model, x=torch.zeros(1, 3, 64, 64))
    with attach(model, plan) as handle:
        pruned = by_formula(model, x=torch.zeros(1, 3, 64, 64))
    first = handle.trace.images[0].steps[0].site.layer
    assert first < 5
    assert pruned < dense * (1 - 0.4 * (6 - first) / 6)


def test_attentions_side_by_side_count_all() -> None:
    from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    model = VisionTransformer(**sizes, block_fn=ParallelThingsBlock).eval()
    tokens, width = 17, 16
    linear = 2 * tokens * 2 * (4 * width**2 + 8 * width**2)
    found = by_formula(model, x=torch.zeros(1, 3, 32, 32))
    assert found == linear + 2 * 4 * tokens**2 * width


def test_experts_behind_one_tower_have_no_formula() -> None:
    from transformers import Qwen3MoeConfig

    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    model = llava_of(Qwen3MoeConfig(**SIZES, **experts))
    with pytest.raises(DataError, match="has experts"):
        by_formula(model, **llava_inputs([[1, IMAGE_TOKEN, 6]]))


def test_peak_memory_counts_what_lives_at_once() -> None:
    cpu = torch.device("cpu")

    def one_after_the_other() -> None:
        for _ in range(5):
            torch.ones(1000)

    def together() -> None:
        held = [torch.ones(1000) for _ in range(5)]
        del held

    assert peak_bytes(together, cpu) == 5 * 4000
    assert 4000 <= peak_bytes(one_after_the_other, cpu) <= 2 * 4000


def test_peak_memory_leaves_out_parameters_and_inputs() -> None:
    layer, given = torch.nn.Linear(100, 100, bias=False), torch.ones(10, 100)
    with torch.no_grad():
        assert peak_bytes(lambda: layer(given), torch.device("cpu")) == given.nbytes
        assert peak_bytes(lambda: given.add_(1).view(-1), torch.device("cpu")) == 0


@pytest.mark.parametrize(
    ("dense", "other", "words"),
    [
        ([2.0, 2.0, 2.2], [1.0, 1.0, 1.0], "2.00x faster"),
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "a net loss: 2.00x slower"),
        ([1.0, 1.0, 1.0], [0.8, 1.0, 1.3], "not told apart"),
    ],
)
def test_ratios_in_words(dense: list[float], other: list[float], words: str) -> None:
    assert words in Speedup.of(dense, other).words


def test_sizes() -> None:
    assert parse_size("336") == (336, 336)
    assert parse_size("480x640") == (480, 640)
    for text in ("", "x", "0", "12x", "ax3"):
        with pytest.raises(DataError, match="no size"):
            parse_size(text)
    swept = workloads((1, 2), (1,), ((8, 8), (8, 16)), words=3, new_tokens=1)
    assert [(w.batch, w.width) for w in swept] == [(1, 8), (1, 16), (2, 8), (2, 16)]


@pytest.mark.parametrize("flops", ["measured", "formula"])
def test_the_record_holds_what_was_measured(folder: Path, tmp_path: Path, flops: str) -> None:
    plan = tmp_path / "half.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: uniform, keep: 0.5}]\n")
    out = tmp_path / "bench.json"
    given = ["bench", "--model", str(folder), "--plans", str(plan), "--batch-size", "2"]
    given += ["--rounds", "2", "--new-tokens", "2", "--flops", flops, "--out", str(out)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    dense, pruned = record["rows"]
    assert (dense["name"], pruned["name"]) == ("dense", "half")
    assert (dense["tokens"]["llm"], pruned["tokens"]["llm"]) == (PATCHES, PATCHES // 2)
    assert 0 < pruned["flops"] < dense["flops"]
    assert pruned["cache"] < dense["cache"]
    assert dense["speedup"]["median"] == 1.0
    assert record["model"]["attention"] in ("sdpa", "eager")
    assert len(record["verdicts"]) == 1


@pytest.mark.parametrize(("gpus", "named"), [(["A", "A"], "A"), (["A", "B"], "cuda:0 A, cuda:1 B")])
def test_gpus_of_different_kinds_are_all_in_a_record(
    gpus: list[str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_name", gpus.__getitem__)
    assert describe_environment()["accelerator"] == named


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    bad = ["bench", "--flops", "guessed", "--out", str(tmp_path / "b.json")]
    result = CliRunner().invoke(app, bad)
    assert result.exit_code == 2
