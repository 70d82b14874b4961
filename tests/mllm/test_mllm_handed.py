"""What layers are handed of places and masks, which logits of tiny models hardly show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.mllm import TransformersMllm
from torch import Tensor

import tokenprune
from tests.mllm.calls import IMG, LONG, SHORT, cache_of, inputs, model, with_cache
from tests.mllm.plans import KEPT, drawn, pick, plan
from tests.mllm.test_mllm_fixed_cache import NEW, static
from tests.models import PATCHES

CUT = 2
"""The layer in front of which more is removed."""
FEW = (0, 2)
"""What is kept there, of what was kept in front of the LLM."""


class Handed:
    """What the attention of every layer is called with, in a call by hand."""

    def __init__(self, of: Any) -> None:
        self.of, self.calls = of, list[dict[str, Any]]()

    def __call__(self, **call: Any) -> Any:
        """The model's answer."""
        self.calls.clear()
        hooks = [
            layer.self_attn.register_forward_pre_hook(self._note, with_kwargs=True)
            for layer in self.of.model.language_model.layers
        ]
        try:
            with torch.no_grad():
                return self.of(**call)
        finally:
            for hook in hooks:
                hook.remove()

    def _note(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.calls.append(kwargs)


def table(of: Any, places: list[int]) -> list[Tensor]:
    """Rotary rows of places."""
    at = torch.tensor([places])
    return list(of.model.language_model.rotary_emb(torch.zeros(1), position_ids=at))


def standing(number: int) -> list[int]:
    """Places in the prompt of what reaches a layer."""
    start, length = SHORT.index(IMG), inputs(SHORT)["input_ids"].shape[1]
    kept = KEPT if number < CUT else [KEPT[one] for one in FEW]
    behind = range(start + PATCHES, length)
    return [*range(start), *(start + one for one in kept), *behind]


@pytest.mark.parametrize("cache", ["growing", "static"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_rotary_rows_are_those_of_the_places(positions: str, cache: str) -> None:
    """Of a prompt, a step and three tokens at once, called without position ids."""
    of, call = model(), inputs(SHORT)
    length, handed = call["input_ids"].shape[1], Handed(of)
    stages = pick(*KEPT), pick(*FEW, at="decoder", layer=CUT)
    steps = [NEW[:, :1], NEW]
    with tokenprune.attach(of, plan(*stages, positions=positions)):
        out = handed(**call, **with_cache(of, static(of) if cache == "static" else None))
        found = [list(handed.calls)]
        for new in steps:
            handed(input_ids=new, **with_cache(of, cache_of(out)))
            found.append(list(handed.calls))
    for number in range(len(found[0])):
        places = standing(number)
        behind = length if positions == "original" else len(places)
        wanted = [
            places if positions == "original" else [*range(len(places))],
            [behind],
            [*range(behind + 1, behind + 1 + NEW.shape[1])],
        ]
        for calls, want in zip(found, wanted, strict=True):
            rows = calls[number]["position_embeddings"]
            torch.testing.assert_close(list(rows), table(of, want), rtol=0, atol=1e-6)


def test_layers_behind_a_cut_are_handed_the_same_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks and rows are made once for all of them, and arguments like others' aren't read."""
    of, read = model(), list[Any]()
    reading = TransformersMllm.read_layer

    def noting(self: TransformersMllm, layer: Any, *given: Any) -> Any:
        read.append(layer)
        return reading(self, layer, *given)

    monkeypatch.setattr(TransformersMllm, "read_layer", noting)
    handed = Handed(of)
    with tokenprune.attach(of, plan(drawn(), drawn(4, at="decoder", layer=1))):
        handed(**inputs(SHORT, LONG))
    layers = list(of.model.language_model.layers)
    assert [layers.index(layer) for layer in read] == [1, 2]  # none is like the cut itself
    first, *others = handed.calls[1:]
    assert len(others) == 2
    for other in others:
        for name in ("attention_mask", "position_embeddings"):
            assert first[name] is not None
            assert other[name] is first[name]
