"""Pruning inside the LLM against a dense run that hides the removed keys, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import LONG, NEW, SHORT, cache_of, greedy, inputs, logits, model
from tests.mllm.plans import fastv, pick, plan


def hidden_columns(of: Any, call: dict[str, Tensor], layer: int, keep: int) -> list[int]:
    """FastV's choice, from attention maps: placeholders that layer `layer - 1` looks at least."""
    with torch.no_grad():
        maps = of(**call, output_attentions=True).attentions
    row = maps[layer - 1][0].float().mean(0)[-1]
    visual = oracle.visual_columns(call)
    best = sorted(visual, key=lambda c: (-float(row[c]), c))[:keep]
    return sorted(set(visual) - set(best))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
@pytest.mark.parametrize("layer", [1, 3])
def test_fastv_is_the_dense_model_with_hidden_keys(kind: str, attention: str, layer: int) -> None:
    eager, of, call = model(kind, "eager"), model(kind, attention), inputs(SHORT)
    gone = hidden_columns(eager, call, layer, keep=9)
    with oracle.hidden_keys(eager, layer, gone):
        want = logits(eager, call)
    with tokenprune.attach(of, plan(fastv(layer, 9))):
        pruned = logits(of, call)
    stay = [place for place in range(want.shape[1]) if place not in gone]
    torch.testing.assert_close(pruned[:, stay], want[:, stay], atol=2e-5, rtol=1e-4)


def test_fastv_decodes_with_the_choice_of_the_prefill() -> None:
    of, eager, call = model(), model("clip", "eager"), inputs(SHORT)
    gone = hidden_columns(eager, call, 2, keep=5)
    with oracle.hidden_keys(eager, 2, gone):
        tokens = oracle.dense_greedy(eager, call, NEW)
    with tokenprune.attach(of, plan(fastv(2, 5))):
        assert greedy(of, call)[0].tolist() == tokens
        assert greedy(of, call, use_cache=False)[0].tolist() == tokens


def keep_only(index: list[int]) -> oracle.Edit:
    return lambda states, columns: (states[index], [columns[i] for i in index])


def merge_pairs(states: Tensor, columns: list[int]) -> tuple[Tensor, list[int]]:
    return (states[0::2] + states[1::2]) / 2, columns[0::2]


def fresh_runs(states: Tensor, columns: list[int]) -> tuple[Tensor, list[int]]:
    made = torch.stack([states[i : i + 4].mean(0) + 1 for i in range(0, len(states), 4)])
    return made, columns[0::4]


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("reduction", ["keep", "merge", "create"])
def test_every_kind_of_reduction(reduction: str, compact: bool) -> None:
    of, call = model(), inputs(SHORT)
    index = [1, 2, 30]
    stage, edit = {
        "keep": (pick(*index, at="decoder", layer=2), keep_only(index)),
        "merge": ({"at": "decoder", "strategy": "t-pairs", "layer": 2, "keep": 18}, merge_pairs),
        "create": ({"at": "decoder", "strategy": "t-fresh", "layer": 2, "keep": 9}, fresh_runs),
    }[reduction]
    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [range(36)])
        want, place = oracle.run(of, one, {2: edit}, compact)
        tokens = oracle.greedy(of, one, NEW, {2: edit}, compact)
    with tokenprune.attach(of, plan(stage, positions="compact" if compact else "original")):
        pruned = logits(of, call)
        assert greedy(of, call)[0].tolist() == tokens
        assert greedy(of, call, use_cache=False)[0].tolist() == tokens
    torch.testing.assert_close(pruned[0, place], want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("compact", [False, True])
def test_stages_compose(compact: bool) -> None:
    of, call = model(), inputs(LONG)
    before, first, second = (1, 2, 5, 6, 9), [0, 2, 3, 4, 7, 9], [0, 1, 4, 5]
    stages = [
        pick(*before),
        {**pick(*first, at="decoder", layer=1), "keep": 3},  # keep is per image, the prompt has two
        {**pick(*second, at="decoder", layer=3), "keep": 2},
    ]
    edits = {1: keep_only(first), 3: keep_only(second)}
    with torch.no_grad():
        ids = call["input_ids"][0].tolist()
        one = oracle.sample(of, ids, call["pixel_values"], [before, before])
        want, place = oracle.run(of, one, edits, compact)
        tokens = oracle.greedy(of, one, NEW, edits, compact)
    positions = "compact" if compact else "original"
    with tokenprune.attach(of, plan(*stages, positions=positions)) as handle:
        pruned = logits(of, call)
        steps = handle.trace.images
        assert greedy(of, call)[0].tolist() == tokens
    torch.testing.assert_close(pruned[0, place], want, atol=2e-5, rtol=1e-4)
    assert [step.anchor.tolist() for step in steps[0].steps] == [
        [1, 2, 5, 6, 9],
        [1, 5, 6, 9],
        [1, 5],
    ]
    assert [step.anchor.tolist() for step in steps[1].steps] == [[1, 2, 5, 6, 9], [5, 9], [5, 9]]
    assert [int((step.assignment >= 0).sum()) for step in steps[1].steps] == [5, 2, 2]


def test_lengths_of_the_cache_are_those_of_the_layers() -> None:
    of, call = model(), inputs(SHORT)
    text = len(SHORT) - 1
    with tokenprune.attach(of, plan(pick(*range(20)), fastv(1, 10), fastv(3, 4))), torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
    lengths = [cache.get_seq_length(layer) for layer in range(4)]
    assert lengths == [text + 20, text + 10, text + 10, text + 4]


def test_an_exit_leaves_text_only() -> None:
    of, call = model(), inputs(SHORT)
    stage = {"at": "decoder", "strategy": "t-exit", "layer": 2, "keep": 0.5}
    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [range(36)])
        want, place = oracle.run(of, one, {2: keep_only([])})
    with tokenprune.attach(of, plan(stage)) as handle:
        torch.testing.assert_close(logits(of, call)[0, place], want, atol=2e-5, rtol=1e-4)
        assert handle.trace.images[0].kept == 0


def test_an_average_budget_is_met_and_measured() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(fastv(1, {"average": 18}))) as handle:
        logits(of, call)
        assert handle.report().tokens["llm_average"] == 18
        assert handle.report().tokens["decoder[1]"] == 12
