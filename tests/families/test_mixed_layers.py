"""LLMs whose layers differ in their windows, under LLaVA, which leaves the masks to the LLM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import generated, logits
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.models.common import IMAGE, clip, text
from tests.families.models.llava import PATCHES, SIDE, Llava
from tests.families.plans import layers, plan, staged
from tests.families.test_decoder import EXACT
from tokenprune.errors import UnsupportedModelError

# a window of 12 ends inside of the picture's 36 tokens
SLIDING, WINDOW = ["sliding_attention", "full_attention"] * 2, 12
TYPES = {"layer_types": SLIDING, "sliding_window": WINDOW}
KINDS: dict[str, dict[str, Any]] = {
    "gemma2": {**TYPES, "head_dim": 8, "query_pre_attn_scalar": 3},
    "gemma3_text": {**TYPES, "head_dim": 8, "query_pre_attn_scalar": 3},
    "ministral": {**TYPES, "head_dim": 8, "layer_types": SLIDING[::-1]},
    "qwen3": {**TYPES, "head_dim": 8, "use_sliding_window": True},
}


@dataclass(frozen=True, eq=False)
class Mixed(Llava):
    """LLaVA with an LLM of layers of two types."""

    kind: str = "gemma2"
    changes: dict[str, Any] = field(default_factory=dict)

    def config(self) -> Any:
        from transformers import LlavaConfig

        return LlavaConfig(
            vision_config=clip(SIDE),
            text_config=text(self.kind, **self.changes),
            image_token_index=IMAGE,
            image_seq_length=PATCHES,
        )


def mixed(kind: str, changes: dict[str, Any]) -> Mixed:
    name, sizes = f"llava-{kind}", ((SIDE, SIDE),) * 2
    return Mixed(name, "LlavaForConditionalGeneration", sizes, kind=kind, changes=changes)


CASES = {kind: mixed(kind, changes) for kind, changes in KINDS.items()}
# Gemma 2 doesn't run with SDPA
CELLS = [("gemma2", "eager", "both"), ("gemma3_text", "eager", "both")]
CELLS += [("gemma3_text", "sdpa", stages) for stages in ("pre_llm", "decoder", "both")]
CELLS += [("ministral", "sdpa", "both"), ("qwen3", "sdpa", "both")]


@contextmanager
def hidden(model: Any, removed: dict[int, Tensor]) -> Iterator[None]:
    """Hide the tokens that a plan removes from the layers that it removes them before."""
    with ExitStack() as stack:
        for first, places in removed.items():
            stack.enter_context(hidden_from(layers(model), first, places))
        yield


@pytest.mark.parametrize(("kind", "attention", "stages"), CELLS)
def test_a_cut_equals_the_full_prompt_with_removed_tokens_hidden(
    kind: str, attention: str, stages: str
) -> None:
    case, scene = CASES[kind], "several"
    # eager attention of the plain model makes NaN of padding that no window reaches
    padding = "left" if attention == "sdpa" else "none"
    # and its softmax rounds to float32
    exact = EXACT if attention == "sdpa" else 1e-5
    model = case.build(torch.float64, attention)
    call = case.inputs(scene, padding, torch.float64)
    assert call["input_ids"].shape[1] > 2 * WINDOW
    where, prompts = case.positions(call), case.prompts(scene, padding)
    steps = {"decoder": [2], "pre_llm": [0], "both": [0, 2]}[stages]
    dense = logits(model, call, **where)
    with tokenprune.attach(model, staged(kind, stages, 0.5)) as handle:
        short = logits(model, call, **where)
        ids = call["input_ids"]
        removed = {at: gone(case, handle.trace, ids, prompts, n) for n, at in enumerate(steps)}
        tokens, scores = generated(model, call)
        again = model.generate(**call, max_new_tokens=5, min_new_tokens=5, use_cache=False)
    assert torch.equal(logits(model, call, **where), dense)
    with hidden(model, removed):
        full = logits(model, call, **where)
    with hidden(model, removed):
        full_tokens, full_scores = generated(model, call)
    seen = call["attention_mask"].bool() & ~removed[steps[-1]]
    assert float((short - full)[seen].abs().max()) < exact
    assert float((short - dense)[seen].abs().max()) > 1e-4
    assert torch.equal(tokens, full_tokens)
    assert torch.equal(again[:, -tokens.shape[1] :], tokens)
    assert float((scores - full_scores).abs().max()) < exact


def test_windows_are_counted_in_places_of_the_prompt() -> None:
    """Counted in what is left, the last token would see as many tokens as its window has."""
    case, masks = CASES["qwen3"], []
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        masks.append(kwargs["attention_mask"])

    hooks = [
        layer.get_submodule("self_attn").register_forward_pre_hook(note, with_kwargs=True)
        for layer in layers(model)[:2]
    ]
    with tokenprune.attach(model, staged("qwen3", "pre_llm", 0.25)):
        logits(model, call)
    for hook in hooks:
        hook.remove()
    sliding, full = (int(mask[0, 0, -1].sum()) for mask in masks)
    assert sliding < WINDOW < full == masks[1].shape[-1]


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"] * 2,
                          "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
                          "linear_key_head_dim": 8, "linear_value_head_dim": 8},
         "full_attention, linear_attention.*full_attention and sliding_attention are served"),
        ("gemma3_text", {**KINDS["gemma3_text"], "use_bidirectional_attention": True},
         "sees both ways"),
    ],
    ids=["linear", "both ways"],
)  # fmt: skip
def test_other_types_are_refused_by_name(kind: str, changes: dict[str, Any], words: str) -> None:
    case = mixed(kind, changes)
    with pytest.raises(UnsupportedModelError, match=words):
        tokenprune.attach(case.create(), plan())


def test_survivors_are_not_renumbered() -> None:
    wanted = {**staged("qwen3", "pre_llm", 0.5), "positions": "compact"}
    with pytest.raises(UnsupportedModelError, match="windows"):
        tokenprune.attach(CASES["qwen3"].build(), wanted)
