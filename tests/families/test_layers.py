"""Query and key of every LLM, against the weights of its own attention."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers
from tokenprune_adapters.transformers import layer_names, llm_names
from tokenprune_adapters.transformers.family_table import ADAPTERS
from tokenprune_adapters.transformers.layer_reader import LayerReader
from torch import Tensor, nn

import tokenprune
from tests.families.calls import case_of, language, logits
from tests.families.cases import CASES, LLMS, SAME_LLM
from tests.families.cells import llm_way
from tests.families.layer_oracle import Ran, ran, rows, text_model
from tests.families.models.common import built, library, text
from tests.families.plans import plan
from tokenprune.errors import SignalError, UnsupportedModelError
from tokenprune.interface.adapter import class_names
from tokenprune.interface.calls import LayerCall

layers = LayerReader()
(VipLlavaAdapter,) = (adapter for adapter in ADAPTERS if adapter.name == "vipllava")
LINEAR, SHARED = "has linear attention", "shares the keys of an earlier layer"
PLACED = "scales queries by their places"
CONVOLUTION = "is a convolution"
CHOOSES = "chooses by itself which blocks of keys"
REFUSED = {
    "qwen3_5": {0: LINEAR, 1: LINEAR, 2: LINEAR},
    "qwen3_5_moe": {0: LINEAR, 1: LINEAR, 2: LINEAR},
    "qwen4_exp": {0: LINEAR, 2: LINEAR},
    "glm5_next": {0: LINEAR, 2: LINEAR},
    "hy_v4_vl": dict.fromkeys(range(4), "is a HYV4VLDecoderLayer, whose attention isn't known"),
    "nemotron_h_omni": dict.fromkeys(range(4), "is a NemotronHBlock, whose attention isn't known"),
    "mistral_large4": {0: PLACED, 1: SHARED, 2: PLACED, 3: PLACED},
    "minicpmv4_6": {0: LINEAR, 1: LINEAR, 2: LINEAR},
    "minicpm_ocr": {0: LINEAR, 1: LINEAR, 2: LINEAR},
    "minicpmv4_7": {0: LINEAR, 1: LINEAR, 2: LINEAR},
    "lfm2_vl": {0: CONVOLUTION, 2: CONVOLUTION},
    "lfm3_vl": {0: CONVOLUTION, 2: CONVOLUTION},
    "minimax_m3_vl": {3: CHOOSES},
    "gemma3n": {3: SHARED},
    "gemma4-shared": {2: SHARED, 3: SHARED},
}
LANGUAGE = {"lfm3_vl": "lfm3"}
"""Families whose LLM came to the library with them, in a folder of its own."""
ROUNDED = {"hunyuan_vl": 1e-6}
"""Families that turn heads by cosines in float32, whatever these are."""
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
TEXTS: dict[str, dict[str, Any]] = {
    "cohere": {"use_qk_norm": True},
    "cohere2": WINDOWS,
    # channels that turn as halves, and a query without a narrow projection
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 8,
        "v_head_dim": 10,
        "rope_interleave": False,
        "first_k_dense_replace": 4,
    },
    "exaone4": WINDOWS,
    "gemma2": {**WINDOWS, "query_pre_attn_scalar": 3, "attn_logit_softcapping": 1.5},
    # the setting is there, and Gemma 3's attention doesn't heed it
    "gemma3_text": {**WINDOWS, "query_pre_attn_scalar": 3, "attn_logit_softcapping": 1.5},
    "hyperclovax": {"attention_multiplier": 0.2},
    "llama4_text": {
        "intermediate_size_mlp": 64,
        "interleave_moe_layer_step": 2,
        "num_local_experts": 4,
        "no_rope_layers": [1, 0, 1, 0],
    },
    "ministral": WINDOWS,
    "mistral": {"sliding_window": 6},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
}
"""LLMs that no case has, or with other settings."""


def sentences() -> dict[str, Tensor]:
    ids = torch.tensor([[0, 0, *range(40, 60)], list(range(60, 82))])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def pair(rotary: Any) -> Any:
    """Cosines and sines, which Llama 4 has in complex numbers."""
    return (rotary.real, rotary.imag) if isinstance(rotary, Tensor) else rotary


def worst(one: Ran) -> float:
    """Largest difference between the layer's own weights and those of its query and key."""
    layer, given = one.layer, one.given
    hidden = given[llm_names.HIDDEN]
    if hasattr(layer, "altup"):  # its streams stand in front
        hidden = hidden.movedim(0, 2)
    projected = layers.project(layer, hidden)
    query, key = layers.query_key(layer, projected, pair(given[llm_names.ROTARY]))
    assert one.weights is not None
    rotary = pair(given[llm_names.ROTARY])
    called = LayerCall(hidden, given[llm_names.MASK], given.get(llm_names.POSITIONS), rotary)
    found = rows(query, key, layers.seen(layer, called), layers.softcap(layer))
    return max(float((one.weights[at] - row).abs().max()) for at, row in found)


@pytest.mark.parametrize("name", SAME_LLM)
def test_families_that_are_left_out_have_the_llm_of_another(name: str) -> None:
    case, other = case_of(name), case_of(SAME_LLM[name])
    pairs = itertools.zip_longest(
        language(case.build()).modules(), language(other.build()).modules()
    )
    assert all(type(mine) is type(its) for mine, its in pairs)
    assert llm_way(case) == llm_way(other)


@torch.no_grad()
@pytest.mark.parametrize("name", LLMS)
def test_weights_of_families_are_those_of_the_model(name: str) -> None:
    case = case_of(name)
    model = case.build(torch.float64, "eager")
    # before 5.24, Qwen4-Exp's eager attention makes NaN of padding
    padding = "none" if name == "qwen4_exp" and library() < (5, 24) else "left"
    calls = ran(model, list(language(model).layers), case.inputs("one", padding, torch.float64))
    assert len(calls) == 4
    for number, one in enumerate(calls):
        reason = layers.no_query_key(one.layer)
        if number in REFUSED.get(name, {}):
            assert reason is not None
            assert reason.startswith(REFUSED[name][number])
        else:
            assert reason is None
            assert worst(one) < ROUNDED.get(name, 1e-9)


@torch.no_grad()
@pytest.mark.parametrize("kind", TEXTS)
def test_weights_of_other_llms_are_those_of_the_model(kind: str) -> None:
    model = text_model(kind, **TEXTS[kind])
    calls = ran(model, list(model.model.layers), sentences())
    assert len(calls) == 4
    assert all(worst(one) < 1e-9 for one in calls)


@torch.no_grad()
def test_all_layers_rotate_where_none_has_a_window() -> None:
    """EXAONE 4's with full attention don't, if others of the LLM have windows."""
    full = {"layer_types": ["full_attention"] * 4, "sliding_window": None}
    model = text_model("exaone4", **full)
    assert all(worst(one) < 1e-9 for one in ran(model, list(model.model.layers), sentences()))


GRANITE = {"transformers.models.granite.modeling_granite.GraniteDecoderLayer": layer_names.LLAMA}
"""A class that isn't known here, and what a package of one's own says of it."""


class WithGranite(VipLlavaAdapter):  # type: ignore[misc, valid-type]
    layer_kinds = GRANITE


@torch.no_grad()
def test_packages_of_ones_own_bring_layer_classes() -> None:
    """Granite's attention is Llama's, with logits that are scaled otherwise."""
    config = CASES["vipllava"].config()
    config.text_config = transformers.GraniteConfig(**text("granite"), attention_multiplier=0.2)
    kind = transformers.VipLlavaForConditionalGeneration
    model = built(kind, config, torch.float64, "eager")
    call = CASES["vipllava"].inputs("one", "none", torch.float64)
    adapter, own = WithGranite(model), list(language(model).layers)
    for one in ran(model, own, call):
        projected = adapter.project(one.layer, one.given[llm_names.HIDDEN])
        query, key = adapter.query_key(one.layer, projected, one.given[llm_names.ROTARY])
        assert one.weights is not None
        for at, row in rows(query, key, one.given[llm_names.MASK], adapter.softcap(one.layer)):
            assert float((one.weights[at] - row).abs().max()) < 1e-9
    fastv = plan({"strategy": "fastv", "at": "decoder", "layer": 2, "keep": 0.5})
    with pytest.raises(SignalError, match="GraniteDecoderLayer, whose attention isn't known"):
        tokenprune.attach(model, fastv)
    with tokenprune.attach(model, fastv, adapter=WithGranite) as handle:
        logits(model, call)
        assert all(2 * image.kept == image.patches for image in handle.trace.images)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["gemma3_text", "qwen3", "mistral"])
def test_rotary_rows_are_those_of_the_layers_own_type(kind: str) -> None:
    model = text_model(kind, **TEXTS[kind])
    calls = ran(model, list(model.model.layers), sentences())
    for one in calls:
        hidden, rotary = one.given[llm_names.HIDDEN], one.given[llm_names.ROTARY]
        made = layers.rotary_rows(
            model.model, one.layer, hidden, torch.arange(hidden.shape[1])[None]
        )
        assert made is not None
        assert all(torch.equal(*pair) for pair in zip(made, rotary, strict=True))
    first, second = (one.given[llm_names.ROTARY][0] for one in calls[:2])
    assert torch.equal(first, second) == (kind != "gemma3_text")


def test_layers_that_do_not_rotate_have_no_rows() -> None:
    of = language(case_of("muse_glimmer").build())
    hidden, places = torch.randn(1, 5, 32), torch.arange(5)[None]
    made = [layers.rotary_rows(of, layer, hidden, places) for layer in of.layers]
    assert [rows is None for rows in made] == [False, True, False, True]


@torch.no_grad()
def test_projections_are_those_that_the_layer_computes() -> None:
    case = case_of("qwen3_5")
    model = case.build(torch.float64, "eager")
    layer, seen = language(model).layers[3], {}
    hooks = [
        module.register_forward_hook(lambda _m, _a, out, name=name: seen.update({name: out}))
        for name, module in layers.projections(layer).items()
    ]
    calls = ran(model, [layer], case.inputs("one", dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    made = layers.project(layer, calls[0].given[llm_names.HIDDEN])
    assert set(made) == set(seen) == {"query", "key"}
    assert all(torch.equal(made[name], seen[name]) for name in made)


def test_without_rows_nothing_is_rotated() -> None:
    layer = text_model("qwen3").model.layers[0]
    hidden = torch.randn(1, 5, 32, dtype=torch.float64)
    still = torch.ones(1, 5, 8, dtype=torch.float64), torch.zeros(1, 5, 8, dtype=torch.float64)
    projected = layers.project(layer, hidden)
    pairs = zip(
        layers.query_key(layer, projected, None),
        layers.query_key(layer, projected, still),
        strict=True,
    )
    assert all(torch.equal(*pair) for pair in pairs)


@torch.no_grad()
def test_ones_turn_as_the_layers_queries_do() -> None:
    """By halves, or by pairs of neighbouring channels, as far as rotary rows reach."""
    from importlib import import_module

    for name in ("glm4v", "glm4v_moe"):
        case = case_of(name)
        model = case.build(torch.float64)
        (one,) = ran(model, [language(model).layers[2]], case.inputs("one", dtype=torch.float64))
        cos, sin = one.given[llm_names.ROTARY]
        states = torch.ones(1, 1, cos.shape[1], 16, dtype=torch.float64)
        turn = import_module(type(one.layer).__module__).apply_rotary_pos_emb
        made = layers.ones(one.layer, one.given[llm_names.HIDDEN], (cos, sin))
        torch.testing.assert_close(made, turn(states, states, cos, sin)[0])


def test_unknown_layers_are_refused_by_name() -> None:
    unknown = nn.TransformerEncoderLayer(8, 2)
    reason = layers.no_query_key(unknown)
    assert reason is not None
    assert "TransformerEncoderLayer" in reason
    with pytest.raises(UnsupportedModelError, match=r"text_model.*TransformerEncoderLayer.*Llama"):
        layers.check_layers([unknown], "text_model")


def test_every_class_exists_and_is_run_here() -> None:
    import importlib

    gone = (name for name in CASES if CASES[name].missing() is not None)
    absent = tuple(f".{LANGUAGE.get(name, name)}." for name in gone)
    known = {name for name in layer_names.KINDS if not any(part in name for part in absent)}
    for name in known:
        module, _, found = name.rpartition(".")
        assert hasattr(importlib.import_module(module), found)
    models = [CASES[name].build() for name in CASES if CASES[name].missing() is None]
    run = {name for of in models for name in class_names(language(of).layers[0])}
    run |= {name for kind in TEXTS for name in class_names(text_model(kind).model.layers[0])}
    assert known <= run
