"""The state of the question alone, against text-only passes of the plain LLM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter
from torch import Tensor

import tokenprune
from tests.mllm.calls import IMG, LONG, SHORT, TEXT, cache_of, greedy, inputs, logits, model
from tests.mllm.plans import plan, tome
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.engine.llm.prompt import Prompt
from tokenprune.errors import SignalError, StrategyFailedError, UnsupportedCallError
from tokenprune.interface.calls import PromptCall
from tokenprune.interface.placement import Encoder, PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.plugins.host import register_plugin

BOS = 1
LAST = [BOS, 40, 41, IMG]


class AskParams(StrategyParams):
    fail: bool = False


class Ask(PruningStrategy[AskParams]):
    """Keep what is most similar to the question's state."""

    name = "t-ask"
    Params = AskParams
    stages = (PreLlm(projected=True),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.QUESTION_STATE,)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        assert not self.params.fail
        self.seen.append(tokens)
        state = tokens.signal(Signal.QUESTION_STATE)
        score = (tokens.hidden * state[:, None]).sum(-1)
        index = score.topk(budget.keep).indices.sort(dim=1).values
        return Reduction.keep(index, tokens.count, score=score)


class AskBefore(Ask):
    name = "t-ask-before"
    stages = (PreLlm(),)
    seen: ClassVar[list[Tokens]] = []


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    Ask.seen.clear()
    AskBefore.seen.clear()
    with register_plugin(registering(Ask, AskBefore), "question-tests"):
        yield


def ask(keep: Any = 6, strategy: str = "t-ask", **params: Any) -> dict[str, Any]:
    return {"at": "pre_llm", "strategy": strategy, "keep": keep, "params": params}


def want(of: Any, *questions: list[int]) -> Tensor:
    """The plain LLM's last state of every question, alone, with BOS in front."""
    return bare(of, *(one if one[0] == BOS else [BOS, *one] for one in questions))


def bare(of: Any, *texts: list[int]) -> Tensor:
    """The plain LLM's last state of every text as it is."""
    rows = []
    for question in texts:
        with torch.no_grad():
            embeds = of.get_input_embeddings()(torch.tensor([question]))
            rows.append(of.model.language_model(inputs_embeds=embeds).last_hidden_state[0, -1])
    return torch.stack(rows)


def asked(of: Any, call: dict[str, Tensor], **rest: Any) -> Tensor:
    with tokenprune.attach(of, plan(ask())):
        logits(of, call, **rest)
    return Ask.seen[-1].signals["question_state"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["clip", "siglip", "mistral"])
def test_every_image_gets_the_state_of_its_samples_question(kind: str, side: str) -> None:
    of = model(kind)
    state = asked(of, inputs(SHORT, TEXT, LONG, LAST, side=side))
    questions = [SHORT[3:], LONG[5:], LONG[5:], LAST[:3]]  # LONG has two images, LAST no question
    torch.testing.assert_close(state, want(of, *questions), atol=2e-5, rtol=1e-4)


def test_a_prompt_that_has_no_bos_gets_none() -> None:
    of = model()
    state = asked(of, inputs(SHORT[1:], LONG))
    torch.testing.assert_close(state[:1], bare(of, SHORT[3:]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(state[1:2], want(of, LONG[5:]), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("strategy", ["t-ask", "t-ask-before"])
def test_a_video_has_one_question(strategy: str) -> None:
    of = model()
    film = [1, IMG, IMG, IMG, 50, 51]
    with tokenprune.attach(of, plan(ask(4, strategy), images="frames")) as handle:
        logits(of, inputs(film, LONG, film))
        assert handle.meter.tokens["llm"] == 4
    seen = {len(t.hidden): t.signals["question_state"] for t in (Ask.seen or AskBefore.seen)}
    torch.testing.assert_close(seen[1], want(of, LONG[5:]), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(seen[2], want(of, film[4:], film[4:]), atol=2e-5, rtol=1e-4)


def test_answers_are_no_question() -> None:
    of, call = model(), inputs(LONG, SHORT)
    labels = torch.full_like(call["input_ids"], -100)
    labels[:, -2:] = call["input_ids"][:, -2:]
    state = asked(of, call, labels=labels)
    questions = [LONG[5:-2], LONG[5:-2], SHORT[3:-2]]
    torch.testing.assert_close(state, want(of, *questions), atol=2e-5, rtol=1e-4)


def test_question_tokens_by_hand() -> None:
    # 0 padding, 5 placeholder; answers are 9
    rows = [[0, 1, 5, 5, 2, 3, 4], [1, 5, 2, 9, 3, 9, 0], [2, 3, 5, 5, 9, 9, 0]]
    ids = torch.tensor(rows)
    labels = torch.where(ids == 9, ids, -100)

    def question(labels: Tensor | None) -> Tensor:
        call = PromptCall(ids=ids, mask=(ids != 0).long(), labels=labels)
        return Prompt(call, LlavaAdapter(model()).spec()).question()

    found = question(labels)
    assert [ids[row][found[row]].tolist() for row in range(3)] == [[2, 3, 4], [2], [2, 3]]
    without = question(None)
    assert ids[1][without[1]].tolist() == [2, 9, 3, 9]


@pytest.mark.parametrize("strategy", ["t-ask", "t-ask-before"])
def test_keep_all_is_bit_exact_and_counts_no_second_prompt(strategy: str) -> None:
    of, call = model(), inputs(SHORT, LONG)
    plain = of(**call, output_hidden_states=True)
    with tokenprune.attach(of, plan(ask(1.0, strategy))) as handle, torch.no_grad():
        pruned = of(**call, output_hidden_states=True, use_cache=True)
        seconds = handle.meter.seconds
    assert torch.equal(pruned.logits, plain.logits)
    assert len(pruned.hidden_states) == len(plain.hidden_states)
    assert all(map(torch.equal, pruned.hidden_states, plain.hidden_states))
    assert cache_of(pruned).get_seq_length() == call["input_ids"].shape[1]
    assert seconds["decode"] == 0
    assert seconds["select"] > 0


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(tome(20), ask(4))):
        both = logits(of, call)
        one = {**inputs(SHORT), "pixel_values": call["pixel_values"][:1]}
        two = {**inputs(LONG), "pixel_values": call["pixel_values"][1:]}
        for row, alone in enumerate((one, two)):
            torch.testing.assert_close(both[row, -3:], logits(of, alone)[0, -3:])


def test_generation_chooses_by_the_question_whatever_was_generated() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(ask(4))):
        cached = greedy(of, call)
        kept = [tokens.signals["question_state"] for tokens in Ask.seen]
        assert torch.equal(greedy(of, call, use_cache=False), cached)
        assert torch.equal(greedy(of, call, num_beams=1), cached)
        greedy(of, inputs(SHORT), num_beams=3)
    questions = want(of, SHORT[3:], LONG[5:], LONG[5:])
    torch.testing.assert_close(kept[0], questions, atol=2e-5, rtol=1e-4)
    of_beams = Ask.seen[-1].signals["question_state"]
    want_each = want(of, SHORT[3:]).expand_as(of_beams)  # some versions encode an image per beam
    torch.testing.assert_close(of_beams, want_each, atol=2e-5, rtol=1e-4)


def test_images_encoded_again_without_cache_are_chosen_by_the_first_question() -> None:
    """As in versions of transformers whose `generate` encodes the images at every step."""
    of, call = model(), inputs(SHORT)
    from tokenprune.engine.call import calling

    longer = {**call, "input_ids": torch.cat((call["input_ids"], torch.tensor([[60, 61]])), 1)}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    with tokenprune.attach(of, plan(ask(4))) as handle, calling(handle):
        logits(of, call, use_cache=False)
        logits(of, longer, use_cache=False)
    first, again = (tokens.signals["question_state"] for tokens in Ask.seen)
    assert torch.equal(first, again)


def test_a_prompt_without_text_is_refused() -> None:
    of = model()
    with (
        tokenprune.attach(of, plan(ask())),
        pytest.raises(UnsupportedCallError, match="no text") as caught,
    ):
        logits(of, inputs([IMG]))
    assert caught.value.where == "input_ids"


def test_nothing_stays_behind_when_it_fails() -> None:
    of, call = model(), inputs(SHORT)
    plain = logits(of, call)
    with tokenprune.attach(of, plan(ask(fail=True))):
        with pytest.raises(StrategyFailedError):
            logits(of, call)
        broken = of.model.language_model.layers[1].mlp
        hook = broken.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            logits(of, call)
        hook.remove()
    with tokenprune.attach(of, plan(ask(1.0))):
        assert torch.equal(logits(of, call), plain)


def test_an_encoder_alone_has_no_question() -> None:
    class Inside(Ask):
        name = "t-ask-inside"
        stages = (Encoder(),)

    stage = {"at": "encoder", "strategy": "t-ask-inside", "keep": 9, "layer": 1}
    none = "question_state, which exists at pre_llm only"
    with register_plugin(registering(Inside), "inside"), pytest.raises(SignalError, match=none):
        tokenprune.attach(model().model.vision_tower, plan(stage))
