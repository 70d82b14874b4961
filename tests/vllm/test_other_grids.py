"""Real engines of pictures on grids, whose LLMs are others: with experts, with linear attention."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from tokenprune_adapters.vllm.inside_grids import FOLLOWED

from tests.families.processors import RECIPES
from tests.vllm.conftest import Engines, attached, request
from tests.vllm.test_families import BLOCK, CHUNKED, GRIDS, asked, plan
from tokenprune.errors import PlanError

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

FAMILIES = (
    *("qwen2_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
    *("glm4v", "glm4v_moe", "glm_ocr", "paddleocr_vl"),
)
CLIPS = FAMILIES[:4]
"""Those whose clips are served."""
HALF = plan(GRIDS, {"strategy": "divprune", "keep": 0.5})
FEW = plan(
    GRIDS,
    {"strategy": "random", "keep": 0.8},
    {"strategy": "divprune", "keep": {"per_tile": 4}},
)
INSIDE = plan(
    GRIDS,
    {"at": "encoder", "strategy": "evoprune", "keep": 0.6},
    {"strategy": "fopru", "keep": 0.5},
)


def mixed(name: str) -> dict[str, Any]:
    """A prompt of a clip and a picture."""
    known = RECIPES[name]
    text = f"{known.clip}, {known.picture}?"
    return {"text": text, "clips": [[2, 6, 32, 40, 2]], "pictures": [[1, 64, 40]]}


@pytest.fixture(autouse=True)
def _positions_between_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM resamples the learned positions of PaddleOCR-VL, and transformers from 5.20 on."""
    from transformers.models.paddleocr_vl.modeling_paddleocr_vl import PaddleOCRVisionEmbeddings

    fixed = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(
        PaddleOCRVisionEmbeddings, "interpolation_align_corners", fixed, raising=False
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_ids_are_those_of_attach(name: str, engines: Engines, folder: Callable[[str], str]) -> None:
    model, prompts = folder(name), asked(name)
    if name in CLIPS:
        prompts.append(mixed(name))
    chunked, unshared, *whole = engines(
        request(HALF, prompts, model, options={**BLOCK, **CHUNKED}, again=True),
        request(FEW, prompts, model, options={**BLOCK, "enable_prefix_caching": False}),
        # states of linear attention are cached by block, so chunks change what is cached
        *([request(HALF, prompts, model, options=BLOCK, again=True)] if name == "qwen3_5" else ()),
        *([request(INSIDE, prompts, model, options=BLOCK)] if name in FOLLOWED else ()),
    )
    dense, half, few = (attached(one, prompts, model) for one in ({}, HALF, FEW))
    assert dense != half != few != dense, "a plan that changes no answer"
    if name in FOLLOWED:
        assert whole.pop()["ids"] == attached(INSIDE, prompts, model) != half
    assert unshared["ids"] == few
    for answers in (chunked, *whole):
        assert answers["ids"] == answers["again"] == half
        assert answers["cached"] > 0, "tokens out of the prefix cache"


def test_what_vllm_does_for_a_model_itself_is_done_for_ours() -> None:
    from tokenprune_adapters.vllm.hook import vllms_own
    from vllm.model_executor.models.config import (
        Qwen3_5ForConditionalGenerationConfig,
        VerifyAndUpdateConfig,
    )

    def own(architecture: str) -> object:
        return vllms_own(SimpleNamespace(architecture=f"Tokenprune{architecture}"))

    # the precision in which states of linear attention are cached
    assert own("Qwen3_5MoeForConditionalGeneration") is Qwen3_5ForConditionalGenerationConfig
    assert own("LlavaForConditionalGeneration") is VerifyAndUpdateConfig


def test_a_plan_is_refused_for_every_class_that_would_not_follow_it() -> None:
    from tokenprune_adapters.vllm import register
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    register()
    hooks = dict(MODELS_CONFIG_MAP)
    register()  # in each process any number of times
    assert hooks == MODELS_CONFIG_MAP
    for own in (
        "LlavaForConditionalGeneration",  # served under another name
        "Gemma3ForConditionalGeneration",  # served under none
        "TransformersMultiModalForCausalLM",  # what --model-impl transformers runs
    ):
        config = SimpleNamespace(tokenprune_plan={"stages": []})
        model = SimpleNamespace(architecture=own, hf_config=config)
        hooks[own].verify_and_update_model_config(model)
        with pytest.raises(PlanError, match=f"'{own}' would run without the plan"):
            hooks[own].verify_and_update_config(SimpleNamespace(model_config=model))
        del config.tokenprune_plan
        hooks[own].verify_and_update_config(SimpleNamespace(model_config=model))
