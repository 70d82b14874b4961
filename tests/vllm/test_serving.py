"""Counts and refusals from a config alone, and the command line; no vLLM needed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tokenprune_adapters.vllm.hook import refuse_options, started, untested
from tokenprune_adapters.vllm.seen import PIXELS, SquarePictures
from tokenprune_adapters.vllm.serving import served_plan
from transformers import LlavaConfig
from typer.testing import CliRunner

from tests.vllm.conftest import REFERENCE
from tokenprune.cli import app
from tokenprune.errors import BudgetError, PlanError, SignalError, UnsupportedModelError
from tokenprune.plan import load_plan

INSIDE = {"at": "encoder", "strategy": "evoprune", "keep": 96}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 0.5}
UNTRAINED = {
    "at": "pre_llm",
    "strategy": "quecc",
    "keep": 36,
    "params": {"init_seed": 0, "dim": 16, "text_dim": 16},
}


def config(**changes: Any) -> Any:
    """LLaVA 1.5's: 24 x 24 patches, features of the last block but one."""
    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14}
    vision |= {"num_hidden_layers": 24, **changes.pop("vision", {})}
    language = {"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32}
    return LlavaConfig(vision_config=vision, text_config=language, **changes)


def compact(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"positions": "compact", "stages": list(stages)}


def test_the_counts() -> None:
    served = served_plan(config(), compact(INSIDE, BEHIND))
    assert (served.dense, served.places, served.used) == (576, 48, 23)
    restored = {"at": "encoder", "strategy": "ipcv", "keep": 96}
    assert served_plan(config(), compact(restored)).places == 576
    assert served_plan(config(), compact(restored, BEHIND)).places == 288
    # 528 tokens of 32 layers, keys and values of 4,096 numbers, two bytes each
    assert "576 -> 48 visual tokens per image of 336 x 336, about 264.0 MiB" in started(served, 2)


def test_the_plan_of_the_config() -> None:
    assert served_plan(config(tokenprune_plan=compact(INSIDE))).places == 96
    with pytest.raises(PlanError, match="there is no plan"):
        served_plan(config())


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        ({"stages": [INSIDE]}, PlanError, "positions: compact"),
        ({**compact(INSIDE), "images": "frames"}, PlanError, "images: separate"),
        (
            compact({"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 9}),
            PlanError,
            "inside the LLM",
        ),
        (compact({"at": "pre_llm", "strategy": "cls_inflection"}), PlanError, "on the data"),
        (compact(UNTRAINED), SignalError, "quecc"),
        (compact({**BEHIND, "keep": 600}), BudgetError, "600"),
        (compact({**BEHIND, "keep": {"average": 60}}), BudgetError, "LLM"),
    ],
)
def test_plans_that_cannot_be_served(
    plan: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        served_plan(config(), plan)


def test_towers_that_are_not_served() -> None:
    with pytest.raises(UnsupportedModelError, match="several layers"):
        served_plan(config(vision_feature_layer=[-2, -5]), compact(INSIDE))
    with pytest.raises(UnsupportedModelError, match="aren't its patches"):
        served_plan(config(vision_feature_select_strategy="full"), compact(INSIDE))
    with pytest.raises(UnsupportedModelError, match="of a pixtral aren't its patches"):
        served_plan(config(vision={"model_type": "pixtral"}), compact(INSIDE))
    with pytest.raises(UnsupportedModelError, match="dinov2"):
        served_plan(config(vision={"model_type": "dinov2"}), compact(INSIDE))
    other = SimpleNamespace(model_type="paligemma")
    with pytest.raises(UnsupportedModelError, match="paligemma"):
        served_plan(other, compact(INSIDE))
    # a SigLIP tower has no class token, whose attention a method may read
    siglip = config(
        vision={"model_type": "siglip_vision_model"}, vision_feature_select_strategy="full"
    )
    with pytest.raises(SignalError):
        served_plan(siglip, compact({"at": "pre_llm", "strategy": "visionzip", "keep": 64}))


def drafted(method: str) -> Any:
    """An engine's config of speculative decoding."""
    return SimpleNamespace(
        use_eagle=lambda: method == "mtp", uses_draft_model=lambda: method == "draft_model"
    )


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("parallel_config", "tensor_parallel_size", 2),
        ("compilation_config", "compile_mm_encoder", True),
        ("compilation_config", "cudagraph_mm_encoder", True),
        ("model_config.multimodal_config", "enable_mm_embeds", True),
        ("model_config", "enable_prompt_embeds", True),
        ("lora_config", "enable_tower_connector_lora", True),
        ("model_config.multimodal_config", "video_pruning_rate", 0.5),
        ("", "speculative_config", drafted("mtp")),
        ("", "speculative_config", drafted("draft_model")),
    ],
)
def test_options_under_which_a_plan_would_be_wrong(place: str, name: str, value: Any) -> None:
    options = SimpleNamespace(
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        compilation_config=SimpleNamespace(compile_mm_encoder=False, cudagraph_mm_encoder=False),
        model_config=SimpleNamespace(
            enable_prompt_embeds=False,
            multimodal_config=SimpleNamespace(
                mm_encoder_tp_mode="weights", enable_mm_embeds=False, video_pruning_rate=None
            ),
        ),
        lora_config=None,
        speculative_config=None,
    )
    refuse_options(options)
    options.lora_config = SimpleNamespace(enable_tower_connector_lora=False)
    options.speculative_config = drafted("ngram")
    refuse_options(options)
    holder: Any = options
    for part in filter(None, place.split(".")):
        holder = getattr(holder, part)
    setattr(holder, name, value)
    with pytest.raises(UnsupportedModelError) as error:
        refuse_options(options)
    assert name.replace("_", "-") in error.value.where.replace("_", "-")
    if name == "tensor_parallel_size":
        assert "for a Qwen-VL or GLM add --mm-encoder-tp-mode data" in str(error.value)
        options.model_config.multimodal_config.mm_encoder_tp_mode = "data"
        refuse_options(options)


def test_an_untested_release_is_said() -> None:
    assert untested("0.32.0") == untested("0.32.1+cpu") == ""
    assert "Python code of vLLM 0.33 on the compiled code of 0.32" in untested("0.33.0")
    assert "vLLM 0.32, and this is 0.34.0" in untested("0.34.0")


class Whole:
    """A processor of vLLM's."""

    def _get_prompt_updates(self, items: Any, options: Any, seen: Any) -> list[str]:
        return [*seen]


class Squares(SquarePictures, Whole):
    info = SimpleNamespace(get_hf_config=config)


@pytest.mark.parametrize(("kind", "name"), PIXELS.items())
def test_pixels_of_another_size_are_the_requests_error(kind: str, name: str) -> None:
    def updates(*shape: int) -> Any:
        item = {name: SimpleNamespace(data=torch.empty(shape, device="meta"))}
        return Squares()._get_prompt_updates({}, {"size": 28}, {kind: [item]})

    assert updates(8, 3, 336, 336) == [kind]
    with pytest.raises(ValueError, match=r"mm_processor_kwargs.*3, 28, 28.*'size': 28"):
        updates(3, 28, 28)
    assert Squares()._get_prompt_updates({}, {}, {kind: [{}]}) == [kind], "nothing to see"


def run(*args: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "120"})
    return done.exit_code, done.output


def test_the_command_line(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(compact(INSIDE, BEHIND)))
    code, out = run("vllm", "check", plan, REFERENCE)
    assert code == 0
    assert all(word in out for word in ("112 x 112", "196", "48", "24%"))
    code, out = run("vllm", "args", plan, REFERENCE)
    assert code == 0
    options = shlex.split(out)
    assert options[:3] == ["--model", REFERENCE, "--hf-overrides"]
    overrides = json.loads(options[3])
    assert overrides["architectures"] == ["TokenpruneLlavaForConditionalGeneration"]
    assert load_plan(overrides["tokenprune_plan"]) == load_plan(plan)
    for command in ("check", "args"):
        assert run("vllm", command, plan, "reference") == run("vllm", command, plan, REFERENCE)
    code, out = run("vllm", "check", plan, "referense")
    assert code == 2
    assert "Did you mean 'reference'" in " ".join(out.split())


def test_the_command_line_refuses_in_one_sentence(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"stages": [INSIDE]}))
    code, out = run("vllm", "check", plan, REFERENCE)
    assert code == 2
    assert "positions: compact" in out
    code, out = run("vllm", "check", plan, tmp_path / "nothing")
    assert code == 2
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    code, out = run("vllm", "check", plan, tmp_path)
    assert code == 2
    assert "BertModel" in out
