"""Calls and plans that are refused, and a model that works as before after each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llava import LlavaAdapter

import tokenprune
from tests import models
from tests.mllm.calls import SHORT, cache_of, greedy, inputs, logits, model, with_cache
from tests.mllm.plans import COMBINATIONS, drawn, fastv, plan, tome
from tokenprune.errors import (
    AlreadyAttachedError,
    BudgetError,
    LayerError,
    NonFiniteError,
    PlanError,
    SignalError,
    StrategyFailedError,
    TokenpruneError,
    UnknownNameError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from tokenprune.interface.calls import LlmCall
from tokenprune.interface.specs import MllmSpec


def embedded(of: Any, call: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in call.items() if name != "input_ids"}
    return {**rest, "inputs_embeds": of.get_input_embeddings()(call["input_ids"])}


def encoded(of: Any, call: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in call.items() if name != "pixel_values"}
    features = of.model.get_image_features(call["pixel_values"], return_dict=True)
    return {**rest, "mm_encoder_outputs": {"image": features}}


GENERATE = {
    "assistant_early_exit": lambda of, call: {**call, "assistant_early_exit": 2},
    "prefill_chunk_size": lambda of, call: {**call, "prefill_chunk_size": 4},
    "output_attentions": lambda of, call: {
        **call,
        "output_attentions": True,
        "return_dict_in_generate": True,
    },
    "inputs_embeds": embedded,
    "mm_encoder_outputs": encoded,
    "vision_feature_layer": lambda of, call: {**call, "vision_feature_layer": -1},
}


@pytest.mark.parametrize("what", GENERATE)
def test_generate_refuses_by_name_and_goes_on(what: str) -> None:
    of, call = model("clip", "eager" if what == "output_attentions" else "sdpa"), inputs(SHORT)
    if what == "mm_encoder_outputs" and what not in inspect.signature(of.forward).parameters:
        pytest.skip("this transformers can't be given encoder outputs")
    with torch.no_grad():
        odd = GENERATE[what](of, call)
    with tokenprune.attach(of, COMBINATIONS["decoder"]):
        want = greedy(of, call)
        with pytest.raises(UnsupportedCallError) as caught:
            of.generate(**odd, max_new_tokens=4)
        assert what in caught.value.where
        assert caught.value.remedy
        assert torch.equal(greedy(of, call), want)


def test_a_mask_of_a_further_turn_alone_is_refused() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, COMBINATIONS["all"]), torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
        with pytest.raises(UnsupportedCallError, match="for a chat of 82 tokens"):
            of(**call, **with_cache(of, cache))


class PagedCache:
    """As `generate_batch` of transformers has one, without a length."""


def test_a_cache_of_several_prompts_is_refused() -> None:
    of, call = model(), inputs(SHORT)
    with (
        tokenprune.attach(of, COMBINATIONS["decoder"]),
        pytest.raises(UnsupportedCallError, match="in a PagedCache: its cache shares pages"),
    ):
        of(**call, **with_cache(of, PagedCache()))


@pytest.mark.parametrize(
    "begin",
    [
        lambda of: of.generate_batch([[1, 30]], max_new_tokens=1),
        lambda of: of.init_continuous_batching(),
    ],
)
def test_continuous_batching_is_refused_before_it_begins(begin: Callable[[Any], Any]) -> None:
    """Inside, it catches errors, logs them and gives empty answers."""
    of = model()
    with (
        tokenprune.attach(of, COMBINATIONS["decoder"]),
        pytest.raises(UnsupportedCallError, match="shares pages among several prompts"),
    ):
        begin(of)


def test_a_cache_of_another_plan_is_refused() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, COMBINATIONS["all"]), torch.no_grad():
        cache = cache_of(of(**call, use_cache=True))
    with (
        tokenprune.attach(of, COMBINATIONS["all"]),
        torch.no_grad(),
        pytest.raises(UnsupportedCallError, match="another plan"),
    ):
        of(input_ids=call["input_ids"][:, -1:], **with_cache(of, cache))


def test_features_alone_can_not_be_pruned_before_the_projector() -> None:
    of, call = model(), inputs(SHORT)
    with (
        tokenprune.attach(of, COMBINATIONS["pre_llm"]),
        torch.no_grad(),
        pytest.raises(UnsupportedCallError, match="features alone"),
    ):
        of.model.get_image_features(call["pixel_values"])


def looking(signal: str) -> dict[str, Any]:
    stage = {"at": "decoder", "strategy": "t-look", "layer": 0, "keep": 0.5}
    return {**stage, "params": {"signals": [signal]}}


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ([fastv(0)], LayerError, "layer 0.*last_query_attention"),
        ([looking("question_attention_max")], LayerError, "layer 0.*question_attention_max"),
        ([looking("question_attention_mean")], LayerError, "layer 0.*question_attention_mean"),
        ([looking("question_state")], SignalError, "question_state"),
        ([looking("colour")], UnknownNameError, "no signal 'colour'"),
        ([fastv(4)], LayerError, "no layer 4"),
        ([fastv(3), fastv(2)], TokenpruneError, "begins at layer 2"),
        ([fastv(2, 40)], BudgetError, "40"),
        ([drawn(8), fastv(2, 9)], BudgetError, "9"),
        ([drawn(37)], BudgetError, "37"),
        ([fastv(2, {"average": 4})], BudgetError, "average"),
        (
            [
                {"at": "pre_llm", "strategy": "t-ragged", "keep": 0.5},
                fastv(2, {"average": 20}),
            ],
            PlanError,
            "depends on the data",
        ),
        ([{"at": "decoder", "strategy": "random", "keep": 4}], PlanError, "layer"),
    ],
)
def test_plans_that_do_not_fit(stages: list[Any], error: type[Exception], words: str) -> None:
    of, call = model(), inputs(SHORT)
    want = logits(of, call)
    with pytest.raises(error, match=words):
        tokenprune.attach(of, plan(*stages))
    assert torch.equal(logits(of, call), want)
    with tokenprune.attach(of, plan(tome())):
        pass


def test_several_feature_layers_allow_decoder_stages_only() -> None:
    of = models.llava_clip(vision_feature_layer=[-2, -1])
    call = inputs(SHORT)
    for stage in (tome(), drawn()):
        with pytest.raises(UnsupportedModelError, match="vision_feature_layer"):
            tokenprune.attach(of, plan(stage))
    with tokenprune.attach(of, plan(fastv(2, 5))) as handle:
        greedy(of, call)
        assert handle.report().tokens["decoder[2]"] == 5


def test_a_tower_without_class_token_must_hand_on_all_tokens() -> None:
    of = models.llava_siglip(vision_feature_select_strategy="default")
    with pytest.raises(UnsupportedModelError, match="loses patches"):
        tokenprune.attach(of, plan(drawn()))


def test_other_llms_are_refused_by_name() -> None:
    from transformers import CLIPVisionConfig, Phi3Config

    language = Phi3Config(**models._language())
    of = models._llava(CLIPVisionConfig(**models._vision()), language, "sdpa")
    with pytest.raises(UnsupportedModelError, match="Phi3DecoderLayer"):
        tokenprune.attach(of, plan())


def test_llms_of_another_build_are_refused_by_name() -> None:
    """As GPT-2, which calls its layers something else."""
    of = models.llava_clip()
    language = of.model.language_model
    language.h = language.layers
    del language.layers
    with pytest.raises(UnsupportedModelError, match="LlamaModel keeps no list of 'layers'"):
        tokenprune.attach(of, plan(fastv(2, 4)))


def test_the_sliding_window_counts_places() -> None:
    from transformers import CLIPVisionConfig, MistralConfig

    call = inputs(SHORT)
    width = call["input_ids"].shape[1]
    for window, fits in ((width + 8, True), (width - 1, False)):
        language = MistralConfig(**models._language(), sliding_window=window)
        of = models._llava(CLIPVisionConfig(**models._vision()), language, "sdpa")
        with tokenprune.attach(of, COMBINATIONS["all"]):
            if fits:
                assert torch.equal(greedy(of, call), greedy(of, call, use_cache=False))
                continue
            with pytest.raises(UnsupportedCallError, match="sliding window"):
                greedy(of, call)


def test_attaching_twice_is_refused() -> None:
    of = model()
    with tokenprune.attach(of, plan(tome())):
        for part in (of, of.model.vision_tower):
            with pytest.raises(AlreadyAttachedError):
                tokenprune.attach(part, plan())


@pytest.mark.parametrize("at", ["pre_llm", "decoder"])
def test_a_strategy_that_raises_leaves_the_model_usable(at: str) -> None:
    of, call = model(), inputs(SHORT)
    stage = {"at": at, "strategy": "t-broken", "keep": 4}
    with tokenprune.attach(of, plan({**stage, "layer": 2} if at == "decoder" else stage)):
        for _ in range(2):
            with pytest.raises(StrategyFailedError, match="on purpose") as caught:
                greedy(of, call)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
        text = inputs([1, 30, 31])
        assert greedy(of, text).shape == (1, 5)
    assert torch.isfinite(logits(of, call)).all()


@pytest.mark.parametrize("name", ["pre_llm", "decoder"])
def test_nan_is_refused(name: str) -> None:
    of, call = model(), inputs(SHORT)
    bad = {**call, "pixel_values": call["pixel_values"] * float("nan")}
    with tokenprune.attach(of, COMBINATIONS[name]):
        want = greedy(of, call)
        with pytest.raises(NonFiniteError):
            greedy(of, bad)
        assert torch.equal(greedy(of, call), want)


class Elsewhere(LlavaAdapter):
    """Names a projector that the model doesn't call."""

    def spec(self) -> MllmSpec:
        return replace(super().spec(), projector=UNUSED)


class Unread(LlavaAdapter):
    """Doesn't find the embeddings in the LLM's call."""

    def read_llm(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> LlmCall:
        return replace(super().read_llm(args, kwargs), embeds=None)


UNUSED = torch.nn.Identity()


@pytest.mark.parametrize(
    ("adapter", "words"),
    [(Elsewhere, "Identity wasn't called"), (Unread, "called without embeddings")],
)
def test_calls_that_an_adapter_does_not_understand_never_run_dense(
    adapter: type[LlavaAdapter], words: str
) -> None:
    of, call = model(), inputs(SHORT)
    want = logits(of, call)
    with (
        tokenprune.attach(of, COMBINATIONS["decoder"], adapter=adapter),
        pytest.raises(UnsupportedCallError, match=words),
    ):
        logits(of, call)
    assert torch.equal(logits(of, call), want)
