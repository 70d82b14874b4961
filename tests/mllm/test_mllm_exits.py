"""Strategies that are asked before every layer, and exits of all visual tokens."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm import oracle
from tests.mllm.calls import LONG, NEW, SHORT, TEXT, greedy, inputs, logits, model, split
from tests.mllm.plans import fastv, pick, plan
from tests.mllm.strategies import Leave, exit_layer
from tests.models import IMAGE_TOKEN, PATCHES
from tokenprune.errors import LayerError, PlanError, TokenpruneError

ASKING = [1, IMAGE_TOKEN, 14, 15]
MORE = [1, 10, IMAGE_TOKEN, 16, 17, 18, 19, 20]
PROMPTS = [SHORT, LONG, TEXT, ASKING, MORE]


def leaving(**rest: Any) -> dict[str, Any]:
    return {"at": "decoder", "strategy": "t-leave", **rest}


def exit_of(one: dict[str, Tensor]) -> int:
    """Where `t-leave` drops the picture of a single prompt."""
    behind = one["input_ids"].shape[1] - 1 - oracle.visual_columns(one)[-1]
    return int(exit_layer(torch.tensor(behind)))


def hidden_behind_exit(eager: Any, one: dict[str, Tensor]) -> AbstractContextManager[None]:
    """The dense model with all visual keys hidden from the exit on."""
    return oracle.hidden_keys(eager, exit_of(one), oracle.visual_columns(one))


def test_the_prompts_leave_at_different_layers() -> None:
    layers = [exit_of(one) for one in split(inputs(*PROMPTS)) if "pixel_values" in one]
    assert set(layers) == {1, 2, 3}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_exit_is_the_dense_model_with_hidden_keys(side: str, attention: str) -> None:
    of, eager, call = model("clip", attention), model("clip", "eager"), inputs(*PROMPTS, side=side)
    with tokenprune.attach(of, plan(leaving())):
        together = logits(of, call)
    for row, one in enumerate(split(call)):
        if "pixel_values" in one:
            with hidden_behind_exit(eager, one):
                want = logits(eager, one)[0]
        else:
            want = logits(eager, one)[0]
        text = one["input_ids"][0] != IMAGE_TOKEN
        mine = together[row, call["attention_mask"][row].bool()]
        torch.testing.assert_close(mine[text], want[text], atol=2e-5, rtol=1e-4)


def test_decoding_goes_on_behind_different_exits() -> None:
    of, eager, call = model(), model("clip", "eager"), inputs(*PROMPTS)
    with tokenprune.attach(of, plan(leaving())):
        tokens = greedy(of, call)
        assert torch.equal(greedy(of, call, use_cache=False), tokens)
        beams = greedy(of, call, num_beams=2)
        assert torch.equal(greedy(of, call, num_beams=2, use_cache=False), beams)
    for row, one in enumerate(split(call)):
        if "pixel_values" not in one:
            continue
        with hidden_behind_exit(eager, one):
            assert tokens[row].tolist() == oracle.dense_greedy(eager, one, NEW)


def test_nobody_is_asked_twice_or_behind_the_exit() -> None:
    of, call = model(), inputs(*PROMPTS)
    layers = sorted(exit_of(one) for one in split(call) if "pixel_values" in one)
    with tokenprune.attach(of, plan(leaving())) as handle:
        greedy(of, call)
        tokens = handle.report().tokens
    for layer in (1, 2, 3):
        rows = sum(count for at, count in Leave.asked if at == layer)
        assert rows == sum(at >= layer for at in layers)
    pictures = dict.fromkeys(range(4), 0)
    for one in split(call):
        if "pixel_values" in one:
            for layer in range(exit_of(one), 4):
                pictures[layer] += len(one["pixel_values"])
    total = len(call["pixel_values"])
    for layer in (1, 2, 3):
        left = (total - pictures[layer]) / total * PATCHES
        assert tokens[f"decoder[{layer}]"] == pytest.approx(left)
    mean = sum(total - gone for gone in pictures.values()) / total / 4 * PATCHES
    assert tokens["llm_average"] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("stages", "layers"),
    [
        ([leaving(params={"earliest": 9})], {1, 2, 3}),
        ([leaving(params={"earliest": 9}, layers=[0, 2])], {0, 1, 2}),
        ([leaving(params={"earliest": 9}, layer=2)], {2}),
        ([fastv(1, 0.5), leaving(params={"earliest": 9})], {2, 3}),
        ([leaving(params={"earliest": 9}), fastv(3, 0.5)], {1, 2}),
        ([fastv(1, 0.5), leaving(params={"earliest": 9}), fastv(3, 0.5)], {2}),
    ],
)
def test_the_layers_it_is_asked_at(stages: list[Any], layers: set[int]) -> None:
    of = model()
    with tokenprune.attach(of, plan(*stages)):
        logits(of, inputs(SHORT))
    assert {layer for layer, _ in Leave.asked} == layers


def test_it_composes_with_stages_before_it() -> None:
    of, call = model(), inputs(ASKING)
    kept, layer = (0, 3, 4, 17), exit_of(inputs(ASKING))
    edits: dict[int, oracle.Edit] = {
        1: lambda states, columns: (states[[0, 2]], [columns[0], columns[2]]),
        layer: lambda states, columns: (states[[]], []),
    }
    with torch.no_grad():
        one = oracle.sample(of, call["input_ids"][0].tolist(), call["pixel_values"], [kept])
        want, place = oracle.run(of, one, edits)
        tokens = oracle.greedy(of, one, NEW, edits)
    stages = [pick(*kept), pick(0, 2, at="decoder", layer=1), leaving()]
    assert layer > 1
    with tokenprune.attach(of, plan(*stages)):
        torch.testing.assert_close(logits(of, call)[0, place], want, atol=2e-5, rtol=1e-4)
        assert greedy(of, call)[0].tolist() == tokens


def test_shut_gates_are_no_steps_of_the_trace() -> None:
    of = model()
    with tokenprune.attach(of, plan(leaving(params={"earliest": 3}))) as handle:
        logits(of, inputs(SHORT))
        assert [str(step.site) for step in handle.trace.images[0].steps] == ["decoder[3]"]
        assert handle.trace.images[0].kept == 0


@pytest.mark.parametrize(
    ("keep", "counts"),
    [(0.5, [18, 9, 4]), (7, [7, 7, 7]), ({"average": 18}, [19, 10, 7])],
)
def test_budgets_hold_at_every_layer(keep: Any, counts: list[int]) -> None:
    of, stage = model(), {"at": "decoder", "strategy": "t-shrinking", "keep": keep}
    with tokenprune.attach(of, plan(stage)) as handle:
        logits(of, inputs(SHORT))
        tokens = handle.report().tokens
    assert [tokens[f"decoder[{layer}]"] for layer in (1, 2, 3)] == counts
    assert tokens["llm_average"] == (PATCHES + sum(counts)) / 4


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ([leaving(layers=[1, 4])], LayerError, "no layer 4"),
        ([fastv(2, 0.5), leaving(layers=[2, 3])], PlanError, "begins at layer 2"),
        ([leaving(layers=[0, 2]), fastv(2, 0.5)], PlanError, "begins at layer 2"),
        ([fastv(3, 0.5), leaving()], LayerError, "No layer is left"),
        ([leaving(), fastv(1, 0.5)], LayerError, "don't overlap"),
        ([leaving(), leaving()], LayerError, "No layer is left"),
        ([{**fastv(2, 0.5), "layer": None, "layers": [1, 2]}], PlanError, "one layer"),
    ],
)
def test_layers_that_are_refused(
    stages: list[Any], error: type[TokenpruneError], words: str
) -> None:
    with pytest.raises(error, match=words):
        tokenprune.attach(model(), plan(*stages))
