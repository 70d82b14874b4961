"""What transformers calls the arguments of an LLM and its layers, read and written as passed."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from tokenprune_adapters.shared.arguments import named, parameters, replaced
from tokenprune_adapters.transformers import llm_names as names
from tokenprune_adapters.transformers.llava import LlavaAdapter

from tests.mllm.calls import SHORT, cache_of, inputs, model
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import LayerCall, LlmCall, LlmOutputs

KINDS = ["clip", "mistral"]


@pytest.fixture(params=KINDS)
def adapter(request: pytest.FixtureRequest) -> LlavaAdapter:
    return LlavaAdapter(model(request.param))


def taken(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_arguments_have_these_names(adapter: LlavaAdapter) -> None:
    spec, of = adapter.spec(), adapter.model
    asked = {names.IDS, names.PICTURES, names.MASK, names.POSITIONS, names.EMBEDS}
    assert asked <= taken(type(spec.core).forward)
    assert {*asked, names.LABELS} <= taken(type(of).forward)
    language = taken(type(spec.language_model).forward)
    assert {names.EMBEDS, names.MASK, names.POSITIONS, names.USE_CACHE} <= language
    for layer in spec.layers:
        told = {names.HIDDEN, names.MASK, names.POSITIONS, names.ROTARY}
        assert told <= taken(type(layer).forward)
    for function in (type(spec.core).forward, type(spec.language_model).forward):
        assert {*names.CACHE_NAMES} & taken(function)
    assert {names.GENERATE_IDS, names.CONFIG} <= taken(type(of).generate)
    assert hasattr(of, names.CONFIG)


def test_features_that_generate_encodes_have_this_name(adapter: LlavaAdapter) -> None:
    if names.ENCODED not in taken(type(adapter.model).forward):
        pytest.skip("this transformers encodes pictures in the forward only")
    assert names.ENCODED in taken(type(adapter.spec().core).forward)


def test_what_is_refused_exists() -> None:
    """Of `generate`: arguments or settings; of the core: arguments or what configs know."""
    from transformers import GenerationConfig, GenerationMixin

    settings = taken(GenerationMixin.generate) | set(vars(GenerationConfig()))
    assert set(names.REFUSED_GENERATION) <= settings
    others = set(names.REFUSED) - {names.EMBEDS}
    assert all(hasattr(model("clip", "eager").config, name) for name in others)


@torch.no_grad()
def test_outputs_have_these_names(adapter: LlavaAdapter) -> None:
    language: Any = adapter.spec().language_model
    ids = torch.tensor([[1, 7, 8]])
    embeds = adapter.model.get_input_embeddings()(ids)
    out = language(inputs_embeds=embeds, use_cache=True, output_hidden_states=True)
    found = adapter.read_outputs(out)
    assert found.last is out.last_hidden_state
    assert found.states is not None
    assert len(found.states) == len(adapter.spec().layers) + 1
    assert adapter.outputs_cache(out).get_seq_length() == 3
    assert adapter.cached_length(adapter.outputs_cache(out)) == 3
    assert adapter.cached_length(None) == 0
    assert torch.equal(adapter.run_text(ids), found.last)
    new = LlmOutputs(found.last + 1, tuple(found.last * n for n in range(2)))
    assert adapter.read_outputs(adapter.write_outputs(new, out)) == new
    with pytest.raises(UnsupportedCallError, match="tuple"):
        adapter.read_outputs((found.last,))


@torch.no_grad()
def test_notes_travel_with_a_cache(adapter: LlavaAdapter) -> None:
    cache = cache_of(adapter.model(**inputs(SHORT), use_cache=True))
    assert adapter.cache_mark(cache) is None
    adapter.mark_cache(cache, "a note")
    assert adapter.cache_mark(cache) == "a note"


def passed(function: Any, given: dict[str, Any], by_position: int) -> tuple[Any, dict[str, Any]]:
    """A call's arguments, the first ones by position; positions between them hold None."""
    order = parameters(function)[:by_position]
    args = tuple(given.get(name) for name in order)
    return args, {name: value for name, value in given.items() if name not in order}


@pytest.mark.parametrize("by_position", [0, 1, 2, 5])
def test_the_llms_call_comes_back_as_it_was_passed(adapter: LlavaAdapter, by_position: int) -> None:
    embeds, mask = torch.randn(1, 3, 4), torch.ones(1, 3)
    cache, positions = object(), torch.arange(3)[None]
    forward = type(adapter.spec().language_model).forward
    cache_name = next(name for name in names.CACHE_NAMES if name in parameters(forward))
    given = {
        "inputs_embeds": embeds,
        "attention_mask": mask,
        cache_name: cache,
        "position_ids": None,
    }
    args, kwargs = passed(forward, given, by_position)
    call = adapter.read_llm(args, kwargs)
    assert call == LlmCall(embeds, mask, None, cache, cache_name)
    new = dataclasses.replace(call, positions=positions, mask=None)
    put, told = adapter.write_llm(new, args, kwargs)
    assert len(put) == len(args)
    again = named(forward, put, told)
    assert again["position_ids"] is positions
    assert again["attention_mask"] is None
    assert again[cache_name] is cache
    assert again["inputs_embeds"] is embeds


@pytest.mark.parametrize("by_position", [1, 2, 3])
def test_a_layers_call_comes_back_as_it_was_passed(adapter: LlavaAdapter, by_position: int) -> None:
    layer = adapter.spec().layers[1]
    hidden, mask, rows = torch.randn(1, 3, 4), torch.ones(1, 1, 3, 3), (torch.ones(1, 3, 2),) * 2
    given = {"hidden_states": hidden, "attention_mask": mask, "position_embeddings": rows, "odd": 3}
    args, kwargs = passed(type(layer).forward, given, by_position)
    call = adapter.read_layer(layer, args, kwargs)
    assert call == LayerCall(hidden, mask, None, rows)
    put, told = adapter.write_layer(layer, LayerCall(hidden[:, 1:]), args, kwargs)
    again = named(type(layer).forward, put, told)
    assert again["hidden_states"].shape[1] == 2
    assert again["attention_mask"] is None
    assert again["position_embeddings"] is None
    assert again["odd"] == 3
    # what the caller left out stays left out
    assert again.get("position_ids") is None
    assert ("position_ids" in told) == ("position_ids" in kwargs)


class Further(LlavaAdapter):
    """With an argument that has an entry for each token on its last axis."""

    def spec(self) -> Any:
        return dataclasses.replace(super().spec(), per_token={"depths": 2})


def test_further_arguments_are_read_by_name() -> None:
    adapter, depths = Further(model()), torch.randn(2, 1, 3)
    call = adapter.read_llm((), {"inputs_embeds": torch.randn(1, 3, 4), "depths": depths})
    assert call.per_token == {"depths": depths}
    new = dataclasses.replace(call, per_token={"depths": depths[..., :2]})
    assert adapter.write_llm(new, (), {"depths": depths})[1]["depths"].shape == (2, 1, 2)


def test_prompts_are_read_through_every_entry(adapter: LlavaAdapter) -> None:
    call = inputs(SHORT)
    for entry in ("generate", "model", "core"):
        found = adapter.read_prompt(entry, (), {**call, "labels": call["input_ids"]})
        assert found.ids is call["input_ids"]
        assert found.mask is call["attention_mask"]
        assert found.labels is call["input_ids"]
        assert found.pictured
        assert not found.encoded
        found = adapter.read_prompt(entry, (call["input_ids"],), {})
        assert found.ids is call["input_ids"]
        assert not found.pictured
        found = adapter.read_prompt(entry, (), {"mm_encoder_outputs": {"image": object()}})
        assert found.ids is None
        assert found.encoded
    assert adapter.read_prompt("generate", (), {"inputs": call["input_ids"]}).ids is not None


def test_settings_of_generation_count_as_given(adapter: LlavaAdapter) -> None:
    from transformers import GenerationConfig

    config = GenerationConfig(prefill_chunk_size=3)
    found = adapter.read_prompt("generate", (), {"generation_config": config}).arguments
    assert found["prefill_chunk_size"] == 3
    assert found["assistant_early_exit"] is None


def test_caches_are_those_that_can_be_trimmed(adapter: LlavaAdapter) -> None:
    from transformers import DynamicCache, cache_utils

    assert all(hasattr(cache_utils, name) for name in names.DYNAMIC_CACHES)
    fixed = (names.STATIC_CACHE, names.SLIDING_CACHE, names.LINEAR_CACHE)
    assert all(hasattr(cache_utils, name) for name in fixed)
    assert hasattr(getattr(cache_utils, names.SLIDING_CACHE)(8, 8), names.SLIDING_COUNT)
    cache, states = DynamicCache(), torch.arange(24.0).view(1, 1, 6, 4)
    cache.update(states, states + 100, 0)
    adapter.trim_cache(cache, 0, torch.tensor([[1, 4]]))
    assert torch.equal(cache.layers[0].keys, states[:, :, [1, 4]])
    assert torch.equal(cache.layers[0].values, states[:, :, [1, 4]] + 100)
    assert cache.get_seq_length(0) == 2


class Anything:
    def method(self, one: Any, two: Any = None, *, three: Any = None, **rest: Any) -> None: ...


def test_arguments_by_name() -> None:
    method = Anything.method
    assert parameters(method) == ("one", "two")
    assert named(method, (1,), {"two": 2, "four": 4}) == {"one": 1, "two": 2, "four": 4}
    assert replaced(method, (1,), {"two": 2}, {"one": 5, "three": 3}) == (
        (5,),
        {"two": 2, "three": 3},
    )
    assert replaced(method, (), {"one": 1}, {"one": 5}) == ((), {"one": 5})
    assert replaced(method, (1, 2, 9), {}, {"two": 5}) == ((1, 5, 9), {})


def test_final_norm_has_this_name(adapter: LlavaAdapter) -> None:
    states = torch.randn(1, 3, 32)
    language: Any = adapter.spec().language_model
    assert torch.equal(adapter.final_norm(states), language.norm(states))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_positions_are_counted_from_a_slot(adapter: LlavaAdapter, scale: float) -> None:
    layer, hidden = adapter.spec().layers[0], torch.randn(2, 6, 32)
    first = torch.tensor([0, 4])
    places = torch.tensor([[0, 1, 2, 5, 9, 10], [3, 4, 5, 6, 8, 20]])
    rows = adapter.rotary(layer, hidden, places)
    want = adapter.rotary(layer, hidden, places - places.gather(1, first[:, None]))
    assert rows is not None
    assert want is not None
    found = adapter.counted(tuple(part * scale for part in rows), first)
    assert found is not None
    for part, wanted in zip(found, want, strict=True):
        torch.testing.assert_close(part, wanted * scale, atol=1e-5, rtol=1e-4)
    assert adapter.counted(None, first) is None
