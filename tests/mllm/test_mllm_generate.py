"""`generate` as the user calls it: batches, padding, cache, beams, sampling."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.mllm.calls import LONG, NEW, SHORT, TEXT, greedy, inputs, logits, model, split
from tests.mllm.plans import COMBINATIONS, KEPT, drawn, fastv, pick, plan
from tests.models import IMAGE_TOKEN, PATCHES


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_batch_gives_what_its_samples_give_alone(kind: str, name: str) -> None:
    of, call = model(kind), inputs(SHORT, LONG, TEXT, [1, IMAGE_TOKEN, 2])
    with tokenprune.attach(of, COMBINATIONS[name]) as handle:
        # what generates is the LLM, which doesn't know the tower
        tokens = greedy(of, call) if kind == "clip" else None
        together = logits(of, call)
        traced = handle.trace.images
        alone_traced = []
        for row, one in enumerate(split(call)):
            alone = logits(of, one)
            width = one["input_ids"].shape[1]
            torch.testing.assert_close(together[row, -width:], alone[0], atol=2e-5, rtol=1e-4)
            alone_traced += handle.trace.images
            if tokens is not None:
                assert torch.equal(greedy(of, one)[0], tokens[row])
    for batched, single in zip(traced, alone_traced, strict=True):
        for mine, own in zip(batched.steps, single.steps, strict=True):
            assert torch.equal(mine.anchor, own.anchor)
            assert torch.equal(mine.assignment, own.assignment)


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cache_on_is_cache_off(attention: str, name: str) -> None:
    of, call = model("clip", attention), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS[name]):
        assert torch.equal(greedy(of, call), greedy(of, call, use_cache=False))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_sdpa_is_eager(name: str) -> None:
    call = inputs(SHORT, LONG)
    found = []
    for attention in ("sdpa", "eager"):
        with tokenprune.attach(model("clip", attention), COMBINATIONS[name]):
            found.append(logits(model("clip", attention), call)[call["attention_mask"].bool()])
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)


def by_hand(of: Any, call: dict[str, Tensor], **kwargs: Any) -> Tensor:
    """New tokens of the plain model's own generate, given features and ids that are short."""
    if "mm_encoder_outputs" not in inspect.signature(of.forward).parameters:
        pytest.skip("this transformers can't be given encoder outputs")
    visual = call["input_ids"] == IMAGE_TOKEN
    patch = (visual.cumsum(1) - 1) % PATCHES
    stay = ~visual | torch.isin(patch, torch.tensor(KEPT))
    place = (call["attention_mask"].cumsum(1) - 1).clamp(min=0)
    longest = int(stay.sum(1).max())
    ids = torch.zeros(len(stay), longest, dtype=torch.long)
    mask, position = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, keep in enumerate(stay):
        start = longest - int(keep.sum())
        ids[row, start:] = call["input_ids"][row, keep]
        mask[row, start:] = call["attention_mask"][row, keep]
        position[row, start:] = place[row, keep]
    with torch.no_grad():
        encoded = of.model.get_image_features(call["pixel_values"], return_dict=True)
    encoded.pooler_output = [features[list(KEPT)] for features in encoded.pooler_output]
    out = of.generate(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        mm_encoder_outputs={"image": encoded},
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        suppress_tokens=[IMAGE_TOKEN],
        **kwargs,
    )
    return out[:, longest:]


MODES = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "beams returned": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True},
    "sampling returned": {"do_sample": True, "num_return_sequences": 3},
    "sampled beams": {"do_sample": True, "num_beams": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cache", [True, False])
def test_modes_equal_the_plain_generate_on_the_short_prompt(mode: str, cache: bool) -> None:
    of, call = model(), inputs(SHORT, LONG)
    options = {**MODES[mode], "use_cache": cache}
    torch.manual_seed(7)
    want = by_hand(of, call, **options)
    torch.manual_seed(7)
    with tokenprune.attach(of, plan(pick(*KEPT))):
        out = of.generate(
            **call,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            suppress_tokens=[IMAGE_TOKEN],
            **options,
        )
    width = call["input_ids"].shape[1]
    copies = len(out) // len(call["input_ids"])
    assert torch.equal(out[:, :width], call["input_ids"].repeat_interleave(copies, 0))
    assert torch.equal(out[:, width:], want)


@pytest.mark.parametrize("name", ["decoder", "pyramid", "all", "ragged"])
@pytest.mark.parametrize("cache", [True, False])
def test_one_beam_of_several_returned_is_greedy(name: str, cache: bool) -> None:
    """Copies of a prompt are pruned alike: sampling at temperature ~ 0 gives greedy rows."""
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS[name]) as handle:
        want = greedy(of, call)
        steps = [len(image.steps) for image in handle.trace.images]
        out = of.generate(
            **call,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=True,
            temperature=1e-6,
            num_return_sequences=2,
            use_cache=cache,
        )
        traced = [len(image.steps) for image in handle.trace.images]
    assert torch.equal(out[:, call["input_ids"].shape[1] :], want.repeat_interleave(2, 0))
    assert set(traced) == set(steps)  # some releases encode every copy


def test_sequences_of_a_dict_start_with_the_prompt() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS["all"]):
        for options in ({}, {"num_beams": 2}):
            out = of.generate(
                **call,
                max_new_tokens=NEW,
                return_dict_in_generate=True,
                output_scores=True,
                output_hidden_states=True,
                **options,
            )
            width = call["input_ids"].shape[1]
            assert torch.equal(out.sequences[:, :width], call["input_ids"])
            assert all(h.shape[1] == width for h in out.hidden_states[0])


def test_a_streamer_sees_the_prompt_and_every_token() -> None:
    class Streamer:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def put(self, value: Tensor) -> None:
            self.seen.append(value.reshape(-1))

        def end(self) -> None: ...

    of, call, streamer = model(), inputs(SHORT), Streamer()
    with tokenprune.attach(of, COMBINATIONS["all"]):
        out = of.generate(**call, max_new_tokens=NEW, do_sample=False, streamer=streamer)
    assert torch.equal(torch.cat(streamer.seen), out[0])


@pytest.mark.parametrize("name", ["encoder", "all", "exits", "trim"])
def test_several_turns(name: str) -> None:
    """The second turn, with the answer and a second picture, is a call like any other."""
    of, first = model(), inputs(SHORT)
    with tokenprune.attach(of, COMBINATIONS[name]):
        answer = greedy(of, first)[0].tolist()
        second = inputs([*SHORT, *answer, 40, IMAGE_TOKEN, 41])
        again = greedy(of, second)
        assert torch.equal(greedy(of, first)[0], torch.tensor(answer))
        assert torch.equal(greedy(of, second, use_cache=False), again)


def test_text_alone_is_the_plain_model() -> None:
    of, call = model(), inputs(TEXT, [*TEXT, 33])
    want, tokens = logits(of, call), greedy(of, call)
    with tokenprune.attach(of, COMBINATIONS["all"]):
        assert torch.equal(logits(of, call), want)
        assert torch.equal(greedy(of, call), tokens)


def test_a_generated_placeholder_is_text() -> None:
    of, call = model(), inputs(SHORT)
    options = {"max_new_tokens": NEW, "prefix_allowed_tokens_fn": lambda row, ids: [IMAGE_TOKEN]}
    with tokenprune.attach(of, COMBINATIONS["all"]):
        out = of.generate(**call, **options)
    assert out[0, -NEW:].tolist() == [IMAGE_TOKEN] * NEW


def test_bfloat16_keeps_counts_and_prompt() -> None:
    from tests.models import llava_clip

    of, call = llava_clip().to(torch.bfloat16), inputs(SHORT, LONG)
    call["pixel_values"] = call["pixel_values"].bfloat16()
    with tokenprune.attach(of, plan(drawn(12), fastv(2, 6))) as handle:
        greedy(of, call)
        assert handle.report().tokens["pre_llm"] == 12
        assert handle.report().tokens["decoder[2]"] == 6
