"""A call inside a running one is a call of its own if it is about something else."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.mllm.calls import LONG, SHORT, TEXT, cache_of, inputs, with_cache
from tests.mllm.plans import COMBINATIONS

PROMPT, NEW = inputs(SHORT), 2
NESTED: dict[str, dict[str, Any]] = {
    "other pictures": {**PROMPT, "pixel_values": models.pixels(1, seed=9)},
    "other words": {
        **PROMPT,
        "input_ids": PROMPT["input_ids"].where(PROMPT["input_ids"] != 13, 14),
    },
    "longer": inputs(LONG),
    "text": inputs(TEXT),
    "same": PROMPT,
}


def generated(model: Any, during: Callable[[], object] | None = None, **rest: Any) -> Tensor:
    """What the prompt is answered, with something called before every choice of a token."""

    def look(ids: Tensor, scores: Tensor) -> Tensor:
        if during is not None:
            during()
        return scores

    ids: Tensor = model.generate(
        **PROMPT, max_new_tokens=NEW, min_new_tokens=NEW, logits_processor=[look], **rest
    )
    return ids


# what the running call does without a cache doesn't depend on who calls inside of it
@pytest.mark.parametrize(
    ("entry", "use_cache"),
    [("model", True), ("core", True), ("generate", True), ("model", False)],
)
@pytest.mark.parametrize("what", NESTED)
@pytest.mark.parametrize("place", ["encoder", "pre_llm", "decoder"])
@torch.no_grad()
def test_a_call_inside_generate_answers_as_it_does_alone(
    place: str, what: str, entry: str, use_cache: bool
) -> None:
    model: Any = models.llava_clip()
    other, found = NESTED[what], []

    def ask() -> Tensor:
        if entry == "generate":
            answer: Tensor = model.generate(**other, max_new_tokens=2, min_new_tokens=2)
        elif entry == "core":
            answer = model.model(**other).last_hidden_state
        else:
            answer = model(**other).logits
        return answer

    with tokenprune.attach(model, COMBINATIONS[place]) as handle:
        alone = ask()
        expected = generated(model, use_cache=use_cache)
        anchors = [step.anchor for step in handle.trace.images[0].steps]
        together = generated(model, lambda: found.append(ask()), use_cache=use_cache)
        assert torch.equal(together, expected)
        assert len(found) == NEW
        for answer in found:
            torch.testing.assert_close(answer, alone)
        assert len(handle.trace.images) == 1
        again = [step.anchor for step in handle.trace.images[0].steps]
        assert all(torch.equal(one, two) for one, two in zip(anchors, again, strict=True))


@pytest.mark.parametrize("place", ["encoder", "pre_llm", "decoder"])
@torch.no_grad()
def test_a_call_inside_a_layer_of_a_step_answers_as_it_does_alone(place: str) -> None:
    """A hook of somebody's asks about other pictures while the LLM takes a step."""
    model: Any = models.llava_clip()
    found: list[Tensor] = []

    def ask(layer: Any, args: tuple[Any, ...], output: Any) -> None:
        if args[0].shape[1] == 1:
            found.append(model(**NESTED["other pictures"]).logits)

    with tokenprune.attach(model, COMBINATIONS[place]):
        alone, expected = model(**NESTED["other pictures"]).logits, generated(model)
        model.model.language_model.layers[-1].register_forward_hook(ask)
        assert torch.equal(generated(model), expected)
    assert len(found) == NEW - 1
    for answer in found:
        torch.testing.assert_close(answer, alone)


@pytest.mark.parametrize("place", ["encoder", "pre_llm"])
@torch.no_grad()
def test_a_turn_of_another_chat_answers_as_it_does_alone(place: str) -> None:
    """Its cache is of text, as that of instructions in front of all chats."""
    model: Any = models.llava_clip()
    found: list[Tensor] = []

    def ask() -> Tensor:
        given = with_cache(model, cache_of(model(**inputs(TEXT))))
        other = {**NESTED["other pictures"], "attention_mask": None}
        logits: Tensor = model(**other, **given).logits
        return logits

    with tokenprune.attach(model, COMBINATIONS[place]):
        alone, expected = ask(), generated(model)
        assert torch.equal(generated(model, lambda: found.append(ask())), expected)
    assert len(found) == NEW
    for answer in found:
        torch.testing.assert_close(answer, alone)


PARTS = {
    "a tower's block": "model.vision_tower.encoder.layers.1",
    "the projector": "model.multi_modal_projector",
    "the LLM": "model.language_model",
    "the core": "model",
    "the model": "",
}


@pytest.mark.parametrize("what", ["other pictures", "longer", "text"])
@pytest.mark.parametrize("where", ["a streamer", *PARTS])
@pytest.mark.parametrize("place", ["encoder", "decoder"])
@torch.no_grad()
def test_a_call_in_front_of_the_llm_answers_as_it_does_alone(
    place: str, where: str, what: str
) -> None:
    """A streamer gets the prompt before the LLM runs, and hooks stand on what runs before."""
    model: Any = models.llava_clip()
    other, found = NESTED[what], list[Tensor]()

    def ask(*_: Any) -> None:
        if not found:
            found.append(alone)  # the call inside comes here, too
            found[0] = model(**other).logits

    class Streamer:
        put = staticmethod(ask)

        def end(self) -> None: ...

    with tokenprune.attach(model, COMBINATIONS[place]) as handle:
        alone, expected = model(**other).logits, generated(model)
        kept = handle.trace.images[0].steps[-1].anchor
        if where == "a streamer":
            together = generated(model, streamer=Streamer())
        else:
            model.get_submodule(PARTS[where]).register_forward_pre_hook(ask)
            together = generated(model)
        assert torch.equal(handle.trace.images[0].steps[-1].anchor, kept)
    assert torch.equal(together, expected)
    assert torch.equal(found[0], alone)


@torch.no_grad()
def test_an_encoder_that_is_called_inside_of_its_block_answers_as_it_does_alone() -> None:
    model, found = models.clip_vision(), list[Tensor]()
    one, other = models.pixels(1), models.pixels(3, seed=9)

    def ask(*_: Any) -> None:
        if not found:
            found.append(other)
            found[0] = model(other).last_hidden_state

    with tokenprune.attach(model, COMBINATIONS["encoder"]) as handle:
        expected, alone = model(one).last_hidden_state, model(other).last_hidden_state
        model.encoder.layers[1].register_forward_hook(ask)
        assert torch.equal(model(one).last_hidden_state, expected)
        assert len(handle.trace.images) == 1
    assert torch.equal(found[0], alone)


@pytest.mark.parametrize("when", ["meanwhile", "afterwards"])
@torch.no_grad()
def test_a_context_that_was_copied_inside_of_a_call_is_no_part_of_it(when: str) -> None:
    """So asyncio hands contexts on, to tasks that a callback of the call begins."""
    model: Any = models.llava_clip()
    other, copies = NESTED["longer"], list[contextvars.Context]()
    found: list[Tensor] = []

    def ask() -> None:
        context = contextvars.copy_context()
        copies.append(context)
        if when == "meanwhile":
            elsewhere(context)

    def elsewhere(context: contextvars.Context) -> None:
        thread = threading.Thread(target=lambda: found.append(context.run(both)))
        thread.start()
        thread.join()

    def both() -> Tensor:
        features = model.get_image_features(other["pixel_values"], return_dict=True).pooler_output
        return torch.cat((torch.stack(list(features)).flatten(), model(**other).logits.flatten()))

    with tokenprune.attach(model, COMBINATIONS["encoder"]):
        alone, expected = both(), generated(model)
        assert torch.equal(generated(model, ask), expected)
        if when == "afterwards":
            for context in copies:
                found.append(context.run(both))
                elsewhere(context)
    assert len(found) == len(copies) * (1 if when == "meanwhile" else 2)
    for answer in found:
        torch.testing.assert_close(answer, alone)


def test_generation_does_not_read_its_prompt_to_know_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU would be waited for."""
    model: Any = models.llava_clip()
    with tokenprune.attach(model, COMBINATIONS["pre_llm"]):
        expected = generated(model)
        with monkeypatch.context() as patched:
            patched.setattr(torch, "equal", None)
            again = generated(model)
    assert torch.equal(again, expected)
