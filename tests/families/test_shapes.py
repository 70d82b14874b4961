"""The tiny models have the structure that makes their families special."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.families.calls import case_of, language, logits
from tests.families.cases import CASES
from tests.families.cells import GLM
from tests.families.models.common import END, IMAGE, LAYERS, START
from tests.families.models.glm import CLIP_END, CLIP_START
from tokenprune.engine.adapters import choose_adapter


def arguments(layers: Any, name: str, model: Any, call: dict[str, Tensor]) -> list[Tensor]:
    """What each layer gets for an argument in a plain forward."""
    seen: list[Tensor] = []

    def record(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs[name])

    hooks = [
        layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers.children()
    ]
    logits(model, call)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", CASES)
def test_the_language_model_has_layers_to_cut_between(name: str) -> None:
    layers = language(case_of(name).build()).get_submodule("layers")
    assert len(list(layers.children())) == LAYERS == 4


def test_qwen2_5_has_blocks_with_windows_and_blocks_with_whole_frames() -> None:
    case = case_of("qwen2_5_vl")
    model, call = case.build(), case.inputs("one")
    borders = arguments(model.model.visual.blocks, "cu_seqlens", model, call)
    assert [len(of) - 1 for of in borders] == [2, 1, 2, 1]


@pytest.mark.parametrize("name", GLM)
def test_glm_shows_the_frames_of_a_clip_as_pictures(name: str) -> None:
    """To its tower, and by one placeholder; what stands around both is special."""
    case = case_of(name, "video")
    model, call = case.build(), case.inputs("video")
    spec = choose_adapter(model).spec()
    assert set(spec.placeholders.values()) == {IMAGE}
    assert spec.special_ids is not None
    assert {START, END, CLIP_START, CLIP_END} <= spec.special_ids
    grids: list[Tensor] = []
    hook = model.model.visual.register_forward_pre_hook(
        lambda _, args, kwargs: grids.append(kwargs["grid_thw"]), with_kwargs=True
    )
    logits(model, call)
    hook.remove()
    assert grids[0].tolist() == [[1, 4, 6]] * 6


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_vl_moe"])
def test_qwen3_adds_two_levels_behind_the_first_two_layers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    added: list[Tensor] = []
    inner = language(model)
    plain: Any = inner._deepstack_process

    def recorded(hidden: Tensor, places: Tensor, features: Tensor) -> Tensor:
        added.append(features)
        out: Tensor = plain(hidden, places, features)
        return out

    monkeypatch.setattr(inner, "_deepstack_process", recorded)
    logits(model, call)
    places = int(case.placeholders(call).sum())
    assert [len(features) for features in added] == [places, places]
    assert not torch.equal(*added)


@pytest.mark.parametrize(
    ("name", "both_ways"), [("gemma3", [True, True]), ("gemma4", [True, False])]
)
def test_gemma_has_windows_and_pictures_that_see_both_ways(
    name: str, both_ways: list[bool]
) -> None:
    case = case_of(name)
    # with padding: in full layers the library gives no mask where causality is all
    model, call = case.build(), case.inputs("one", "left")
    kinds = model.config.text_config.layer_types
    assert kinds == ["sliding_attention", "full_attention"] * 2
    layers = language(model).get_submodule("layers")
    window, full = (m[0, 0] for m in arguments(layers, "attention_mask", model, call)[:2])
    start = int(call["attention_mask"][0].argmax())
    first, last = case.placeholders(call)[0].nonzero()[[0, -1], 0].tolist()
    assert [bool(window[first, last]), bool(full[first, last])] == both_ways
    assert [bool(window[-1, start]), bool(full[-1, start])] == [False, True]


def test_gemma4_shared_has_inputs_of_every_layer_and_two_layers_without_keys() -> None:
    model = case_of("gemma4-shared").build()
    layers = list(language(model).get_submodule("layers").children())
    assert all(hasattr(layer, "per_layer_input_gate") for layer in layers)
    keys = [hasattr(layer.get_submodule("self_attn"), "k_proj") for layer in layers]
    assert keys == [True, True, False, False]
