"""Signals of LLMs whose layers differ from one another, against the attention that they run."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter
from tokenprune_adapters.transformers.mllm import TransformersMllm
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, greedy, inputs, logits
from tests.mllm.plans import COMBINATIONS, KEPT, fastv, pick, plan
from tests.mllm.strategies import Look
from tests.models import IMAGE_TOKEN as IMG
from tokenprune.errors import SignalError
from tokenprune.interface.specs import MllmSpec

START = SHORT.index(IMG)
TYPES = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
GEMMA = {**TYPES, "head_dim": 8, "query_pre_attn_scalar": 3}
LINEAR, FULL = "linear_attention", "full_attention"
HYBRID = {
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
LLMS: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {**GEMMA, "attn_logit_softcapping": 1.5},
    "gemma3_text": GEMMA,
    "qwen3_5_text": {**HYBRID, "layer_types": [FULL, LINEAR, LINEAR, FULL]},
}


class AnyLayers(LlavaAdapter):
    """LLaVA with layers of several types and prompts beyond their window.

    In a prefill, which is all that is run here, every layer has its own mask, and that is right.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        TransformersMllm.__init__(self, model)
        self._spec = self._read()

    def spec(self) -> MllmSpec:
        return dataclasses.replace(super().spec(), window=None)


@functools.cache
def model(kind: str, **changes: Any) -> Any:
    """A LLaVA with another LLM, whose attention can be looked at."""
    from transformers import AutoConfig, CLIPVisionConfig

    settings = {key: list(v) if isinstance(v, tuple) else v for key, v in changes.items()}
    config = {**models._language(), **LLMS[kind], **settings}
    language = AutoConfig.for_model(kind, **config)
    return models._llava(CLIPVisionConfig(**models._vision()), language, "eager")


def looking(layer: int, *names: str) -> dict[str, Any]:
    params = {"signals": list(names)}
    return {"at": "decoder", "strategy": "t-look", "layer": layer, "keep": 1.0, "params": params}


def weights(of: Any, layer: int, call: dict[str, Tensor], *stages: dict[str, Any]) -> Tensor:
    """Softmax weights `[B, H, T, T]` that a layer computes while a plan is attached."""
    found: list[Tensor] = []

    def note(module: Any, args: Any, output: Any) -> None:
        found.append(output[1])

    hook = of.model.language_model.layers[layer].self_attn.register_forward_hook(note)
    try:
        with tokenprune.attach(of, plan(*stages), adapter=AnyLayers):
            logits(of, call)
    finally:
        hook.remove()
    return found[0]


CUT = {**pick(*KEPT, at="decoder"), "layer": 1}


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("early", [[], [CUT]], ids=["whole", "cut"])
@pytest.mark.parametrize("layer", [2, 3])
def test_attention_before_and_ahead_is_what_the_layers_run(
    kind: str, early: list[dict[str, Any]], layer: int
) -> None:
    of, call = model(kind), inputs(SHORT)
    stage = looking(layer, "last_query_attention", "prompt_attention_mean", "ahead_attention")
    before = weights(of, layer - 1, call, *early, stage)[0].mean(0)
    ahead = weights(of, layer, call, *early, stage)[0].mean(0)
    tokens = Look.seen[0]
    visual = slice(START, START + tokens.count)
    assert tokens.count == (len(KEPT) if early else models.PATCHES)
    for name, row in (
        ("last_query_attention", before[-1]),
        ("prompt_attention_mean", before.mean(0)),
        ("ahead_attention", ahead[-1]),
    ):
        torch.testing.assert_close(tokens.signals[name][0], row[visual], atol=2e-6, rtol=1e-4)


def test_windows_and_types_of_rotary_rows_matter_here() -> None:
    """What the test above compares would differ without them."""
    of, call = model("gemma3_text"), inputs(SHORT)
    stage = looking(3, "last_query_attention")
    row = weights(of, 2, call, stage)[0].mean(0)[-1]
    assert int((row == 0).sum()) == row.shape[0] - TYPES["sliding_window"]
    wide = weights(model("gemma3_text", sliding_window=64), 3, call, stage)
    one = model("gemma3_text", sliding_window=64, layer_types=("sliding_attention",) * 4)
    assert not torch.allclose(wide, weights(one, 3, call, stage), atol=1e-4)


def test_behind_linear_layers_the_last_attention_is_read() -> None:
    of, call = model("qwen3_5_text"), inputs(SHORT)
    stage = looking(3, "last_query_attention", "ahead_attention")
    before, ahead = (weights(of, at, call, stage)[0].mean(0)[-1] for at in (0, 3))
    visual = slice(START, START + models.PATCHES)
    for tokens in Look.seen:
        torch.testing.assert_close(
            tokens.signal(tokenprune.Signal.AHEAD_ATTENTION)[0], ahead[visual]
        )
        torch.testing.assert_close(
            tokens.signal(tokenprune.Signal.LAST_QUERY_ATTENTION)[0], before[visual]
        )


@pytest.mark.parametrize(
    ("types", "stages", "words"),
    [
        (
            (FULL, LINEAR, LINEAR, FULL),
            [looking(2, "ahead_attention")],
            r"in front of layer 2.*of layer 2, which has linear attention.*layers 0, 3",
        ),
        (
            (LINEAR, LINEAR, LINEAR, FULL),
            [looking(2, "last_query_attention")],
            r"of layer 1, which has linear attention",
        ),
        (
            (LINEAR, FULL, LINEAR, FULL),
            [looking(1, "last_query_attention")],
            r"of layer 0, which has linear attention.*in front of layer 2",
        ),
        (
            (FULL, LINEAR, LINEAR, FULL),
            [{**CUT, "layer": 2}, looking(3, "last_query_attention")],
            r"of layer 0, the last one.*prunes in front of layer 2.*in front of layer 1",
        ),
    ],
    ids=["ahead", "none before", "next one", "pruned between"],
)
def test_layers_without_attention_are_refused_by_number(
    types: tuple[str, ...], stages: list[dict[str, Any]], words: str
) -> None:
    of = model("qwen3_5_text", layer_types=types)
    with pytest.raises(SignalError, match=words):
        tokenprune.attach(of, plan(*stages), adapter=AnyLayers)


@pytest.mark.parametrize("kind", ["qwen3", "gemma"])
def test_other_llms_generate_alike_with_and_without_cache(kind: str) -> None:
    of, call = model(kind), inputs(SHORT)
    want = greedy(of, call)
    with tokenprune.attach(of, plan(fastv(2, 1.0))):
        assert torch.equal(greedy(of, call), want)
    with tokenprune.attach(of, COMBINATIONS["all"]):
        assert torch.equal(greedy(of, call), greedy(of, call, use_cache=False))
