"""Real engines: the ids of `attach`, whatever the engine caches, batches and cuts."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.compare.tiny import save_llava
from tests.models import IMAGE, IMAGE_TOKEN, PATCH, VOCABULARY
from tests.vllm.conftest import Engines, attached, request
from tests.vllm.engine import prompt_of
from tokenprune.interface.strategy import placement, places
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.plugins.host import host

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

INSIDE = {"at": "encoder", "strategy": "evoprune", "keep": 96}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 0.25}
UNTRAINED = {
    "at": "pre_llm",
    "strategy": "quecc",
    "keep": 49,
    "params": {"init_seed": 0, "dim": 16, "text_dim": 16},
}
PLANS = {
    "dense": ([], 196),
    "fopru": ([BEHIND], 49),
    "evoprune": ([{**INSIDE, "keep": 64}], 64),
    "evoprune, then fopru": ([INSIDE, {**BEHIND, "keep": 0.5}], 48),
}
QUESTIONS = [[number] for number in range(40)]


def plan(stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"positions": "compact", "stages": stages}


def test_the_names_relied_on_are_there() -> None:
    from tokenprune_adapters.vllm.names import RELIED_ON

    for name in RELIED_ON:
        module, path = name.split(":")
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)


def test_ids_are_those_of_attach(engines: Engines) -> None:
    plans = [plan(stages) for stages, _ in PLANS.values()]
    found = engines(*(request(one, QUESTIONS) for one in plans))
    for (_, places_), one, answers in zip(PLANS.values(), plans, found, strict=True):
        assert answers["ids"] == attached(one, QUESTIONS)
        shorter = {a - b for a, b in zip(found[0]["lengths"], answers["lengths"], strict=True)}
        assert shorter == {196 - places_}


def static_methods() -> list[dict[str, Any]]:
    """One stage of every method of static length that needs neither training nor parameters."""
    found = []
    for name, kind in sorted(host().strategies.items()):
        at = {*places(kind)} & {"encoder", "pre_llm"}
        own = kind.length != "planned" or issubclass(kind, TrainableStrategy)
        required = any(field.is_required() for field in kind.Params.model_fields.values())
        if not at or own or required:
            continue
        inside = at == {"encoder"} and placement(kind, "encoder")
        stage = {"at": "encoder" if inside else "pre_llm", "strategy": name, "keep": 64}
        if inside and inside.default_schedule is None and inside.layer is None:
            stage["layer"] = 4
        found.append(stage)
    return found


def test_every_static_method_runs_as_attached(engines: Engines) -> None:
    stages = static_methods()
    assert {"tome", "uniform", "random", "divprune"} <= {one["strategy"] for one in stages}
    prompts = QUESTIONS[:4]
    found = engines(*(request(plan([stage]), prompts) for stage in stages))
    for stage, answers in zip(stages, found, strict=True):
        if "refused" in answers:
            # what a tower cut at the feature layer lacks, attach may have
            assert "SignalError" in answers["refused"], (stage, answers)
            continue
        assert answers["ids"] == attached(plan([stage]), prompts), stage


def test_caches_chunks_and_several_pictures(engines: Engines) -> None:
    mixed = plan(PLANS["evoprune, then fopru"][0])
    prompts = [[0], [9, 20], [0], [30, 39], [0]]
    whole, unshared, chunked = engines(
        request(mixed, prompts, count=True),
        request(mixed, prompts, options={"enable_prefix_caching": False}),
        request(
            mixed,
            prompts,
            options={"max_num_batched_tokens": 40, "enable_chunked_prefill": True},
        ),
    )
    assert whole["ids"] == unshared["ids"] == attached(mixed, prompts)
    assert chunked["ids"] == whole["ids"]
    pictures = [p for one in prompts for p in prompt_of(one)["multi_modal_data"]["image"]]
    assert len(pictures) == 7
    different = {picture.tobytes() for picture in pictures}
    assert sum(whole["passes"]) == len(different), "the tower sees each picture once"


def test_a_siglip_tower(engines: Engines, tmp_path: Path) -> None:
    from transformers import (
        AutoProcessor,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        SiglipVisionConfig,
    )

    folder = save_llava(tmp_path / "siglip")
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        image_size=IMAGE, patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    # vLLM's attention on a CPU knows heads of 32 channels and more
    language = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        vocab_size=VOCABULARY, max_position_embeddings=512,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=language, image_token_index=IMAGE_TOKEN,
        vision_feature_layer=-2, vision_feature_select_strategy="full",
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    processor.vision_feature_select_strategy = "full"
    processor.num_additional_image_tokens = 0
    processor.save_pretrained(folder)
    one = plan([{**INSIDE, "keep": 18}, {"at": "pre_llm", "strategy": "divprune", "keep": 9}])
    prompts = QUESTIONS[:4]
    (answers,) = engines(request(one, prompts, str(folder)))
    assert "refused" not in answers, answers
    assert answers["ids"] == attached(one, prompts, str(folder))


CAPTURED = {"compilation_config": {"cudagraph_mm_encoder": True}}
COMPILED = {"compilation_config": {"compile_mm_encoder": True}}
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (plan([{"at": "decoder", "strategy": "fastv", "layer": 2, "keep": 9}]), {}, "'decoder'"),
    (plan([{"at": "pre_llm", "strategy": "cls_inflection"}]), {}, "depends on the data"),
    (plan([UNTRAINED]), {}, "'quecc'"),
    ({"stages": [BEHIND], "positions": "original"}, {}, "positions: compact"),
    (plan([{**BEHIND, "keep": 999}]), {}, "999"),
    (plan([BEHIND]), {"enable_mm_embeds": True}, "bypass the tower"),
    (plan([BEHIND]), {"enable_prompt_embeds": True}, "bypass the tower"),
    (plan([BEHIND]), {"enable_lora": True, "enable_tower_connector_lora": True}, "tower's tokens"),
    (plan([BEHIND]), COMPILED, "compiled tower"),
    (plan([BEHIND]), CAPTURED, "captured tower"),
]


def test_refused_at_the_engines_start(engines: Engines) -> None:
    asked = [request(one, QUESTIONS[:1], options=options) for one, options, _ in REFUSED]
    for answers, (_, _, words) in zip(engines(*asked), REFUSED, strict=True):
        assert words in answers["refused"]
