"""Without pruning the model is bit for bit the plain one; after detach nothing is left."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm.calls import LONG, SHORT, TEXT, greedy, inputs, logits, model
from tests.mllm.plans import COMBINATIONS, drawn, fastv, plan, tome
from tokenprune.errors.words import counted

KEEP_ALL = {
    "dense": plan(),
    "encoder": plan(tome(36)),
    "pre_llm": plan(drawn(36)),
    "ratio": plan({**drawn(), "keep": 1.0}),
    "decoder": plan(fastv(2, 1.0)),
    "all": plan(tome(36), drawn(36), fastv(1, 36), fastv(3, 1.0), positions="compact"),
}


@functools.cache
def plainly(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the plain model, and its new tokens without and with beams."""
    of, call = model(kind), inputs(SHORT, LONG, TEXT)
    return logits(of, call), greedy(of, call), greedy(of, call, num_beams=2)


@pytest.mark.parametrize("name", KEEP_ALL)
@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_keep_all_is_bit_exact(kind: str, name: str) -> None:
    of, call = model(kind), inputs(SHORT, LONG, TEXT)
    want, tokens, beams = plainly(kind)
    with tokenprune.attach(of, KEEP_ALL[name]):
        assert torch.equal(logits(of, call), want)
        assert torch.equal(greedy(of, call), tokens)
        assert torch.equal(greedy(of, call, num_beams=2), beams)


def fingerprint(of: Any) -> dict[str, Any]:
    """Everything that hangs on the modules of a model, by name."""
    found: dict[str, Any] = {}
    for name, module in of.named_modules():
        found[name] = {key: id(value) for key, value in vars(module).items()}
        found[f"{name} hooks"] = len(module._forward_hooks), len(module._forward_pre_hooks)
    return found


@pytest.mark.parametrize("name", COMBINATIONS)
def test_detach_leaves_nothing(name: str) -> None:
    of, call = model(), inputs(SHORT, LONG)
    want, tokens, before = logits(of, call), greedy(of, call), fingerprint(of)
    with tokenprune.attach(of, COMBINATIONS[name]):
        pruned = logits(of, call)
        greedy(of, call)
    assert not torch.equal(pruned, want)
    assert fingerprint(of) == before
    assert torch.equal(logits(of, call), want)
    assert torch.equal(greedy(of, call), tokens)


def test_two_models_carry_different_plans() -> None:
    one, two, call = model("clip"), model("siglip"), inputs(SHORT)
    with tokenprune.attach(one, COMBINATIONS["pre_llm"]):
        alone = logits(one, call)
    with tokenprune.attach(two, COMBINATIONS["decoder"]):
        other = logits(two, call)
        with tokenprune.attach(one, COMBINATIONS["pre_llm"]):
            assert torch.equal(logits(one, call), alone)
            assert torch.equal(logits(two, call), other)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_dense_attachment_counts_what_the_llm_sees(kind: str) -> None:
    of, call = model(kind), inputs(SHORT, LONG, TEXT)
    with tokenprune.attach(of, plan()) as handle:
        greedy(of, call)
        tokens = handle.report().tokens
    assert tokens["llm"] == tokens["llm_average"] == tokens["patches"] == 36


def test_calls_of_text_alone_are_told_from_none() -> None:
    of = model()
    with tokenprune.attach(of, COMBINATIONS["all"]) as handle:
        assert "per image: nothing ran yet" in str(handle.report())
        greedy(of, inputs(TEXT))
        report = str(handle.report())
    assert "1 with 0 images" in report
    assert "per image: no call had any" in report


def test_handle_and_trace_are_told_in_one_line() -> None:
    of = model()
    with tokenprune.attach(of, COMBINATIONS["all"]) as handle:
        assert str(handle.trace) == "Trace(0 images)"
        greedy(of, inputs(SHORT, LONG))
        trace = handle.trace
        shown = [str(trace), str(trace.images[0].steps[-1]), str(handle)]
    each = [f"36 patches to {counted(image.kept, 'token')}" for image in trace.images]
    assert shown[0] == f"Trace(3 images: {', '.join(each)})"
    assert shown[1] == f"TraceStep(decoder[2], 'fastv', kept={trace.images[0].kept})"
    assert shown[2].startswith("<plan on LlavaForConditionalGeneration: encoder: ")
    assert str(handle).startswith("<plan detached from LlavaForConditionalGeneration: encoder: ")


def test_measured_counts_and_times() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS["all"]) as handle:
        greedy(of, call)
        report = handle.report()
    assert report.images == 3
    assert report.tokens["patches"] == 36
    assert report.tokens["encoder"] == 18
    assert report.tokens["pre_llm"] == report.tokens["llm"] == 9
    assert report.tokens["decoder[2]"] == 4
    assert report.tokens["llm_average"] == 6.5
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert [image.kept for image in handle.trace.images] == [4, 4, 4] or sum(
        image.kept for image in handle.trace.images
    ) == 12
