"""Static caches under a plan: as with caches that grow, as one graph, and refused by name."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers import static_caches
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune
from tests import models
from tests.mllm.calls import LONG, SHORT, TEXT, cache_of, greedy, inputs, model, with_cache
from tests.mllm.calls import NEW as STEPS
from tests.mllm.plans import COMBINATIONS, drawn, plan
from tokenprune.errors import UnsupportedCallError

ROOM = 200
STATIC = {"cache_implementation": "static"}
NEW = torch.tensor([[30, 31, 32]])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def static(of: Any, **config: Any) -> Any:
    """An empty static cache for a model."""
    from transformers import StaticCache

    text = copy.deepcopy(of.config.get_text_config())
    for name, value in config.items():
        setattr(text, name, value)
    return StaticCache(config=text, max_cache_len=ROOM)


def compiled() -> dict[str, Any]:
    """Arguments of `generate` that compile every step behind the prompt, without a break."""
    from transformers import CompileConfig

    config = CompileConfig(backend="eager", mode=None, fullgraph=True)
    config._compile_all_devices = True
    return {**STATIC, "compile_config": config}


def counted() -> tuple[int, int]:
    """Graphs, and operations in them, that were compiled since this was asked for."""
    stats = counters["stats"]
    found = stats["unique_graphs"], stats["calls_captured"]
    stats.clear()
    return found


def behind(of: Any, call: dict[str, Tensor], cache: Any) -> list[Tensor]:
    """Logits of a prompt, of a step, and of several tokens with padding among them."""
    with torch.no_grad():
        out = of(**call, **with_cache(of, cache))
        rest = with_cache(of, cache_of(out))
        rows = len(call["input_ids"])
        mask = torch.cat((call["attention_mask"], torch.ones(rows, 4).long()), dim=1)
        mask[:, -3] = 0
        step = of(input_ids=torch.full((rows, 1), 33), attention_mask=mask[:, :-3], **rest)
        more = of(input_ids=NEW.expand(rows, -1), attention_mask=mask, **rest)
    return [out.logits, step.logits, more.logits[:, 1:]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_generation_is_that_with_a_cache_that_grows(name: str, attention: str) -> None:
    of, call = model("clip", attention), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS[name]):
        assert torch.equal(greedy(of, call, **STATIC), greedy(of, call))


SIX = {"max_new_tokens": 6, "min_new_tokens": 6, "return_dict_in_generate": True}


@functools.cache
def plain_steps() -> tuple[Any, int, int]:
    """The cache that generation without a plan leaves; graphs and operations of its steps."""
    counted()
    out = model().generate(**inputs(SHORT, LONG), **SIX, **compiled())
    return cache_of(out), *counted()


@pytest.mark.parametrize("name", ["pre_llm", "pyramid", "ragged", "compact", "trim"])
def test_every_step_is_one_graph_on_a_cache_without_the_slots_of_what_is_gone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few operations more than without a plan."""
    of, call = model(), inputs(SHORT, LONG)
    dense, dense_graphs, dense_operations = plain_steps()
    monkeypatch.setattr(static_caches, "STEP", 4)
    counted()
    torch._dynamo.reset()
    with tokenprune.attach(of, COMBINATIONS[name]) as handle:
        grown = of.generate(**call, **SIX)
        found = of.generate(**call, **SIX, **compiled())
        assert "compiled ones: not measured" in str(handle.report())
    assert torch.equal(found.sequences, grown.sequences)
    graphs, operations = counted()
    assert graphs == dense_graphs == 1
    if name != "compact":  # where rotary rows are made anew in every layer behind a cut
        levels = 1 + len([s for s in COMBINATIONS[name]["stages"] if s["at"] == "decoder"])
        assert operations - dense_operations <= 8 * levels
    caches = dense.layers, cache_of(grown).layers, cache_of(found).layers
    for whole, short, layer in zip(*caches, strict=True):
        held = short.keys.shape[2]
        gone = call["input_ids"].shape[1] + 5 - held  # the last token isn't put into a cache
        assert layer.keys.shape[2] == whole.keys.shape[2] - gone // 4 * 4
        assert int(layer.cumulative_length) == held
    assert layer.keys.shape[2] < whole.keys.shape[2]


def test_prompts_of_other_lengths_share_the_graph() -> None:
    of = model()
    longest = inputs(SHORT + 6 * TEXT)
    with tokenprune.attach(of, COMBINATIONS["pyramid"]):
        counted()
        for call in (longest, inputs(SHORT), inputs(SHORT + TEXT), inputs(TEXT)):
            want = greedy(of, call)
            assert torch.equal(greedy(of, call, **compiled()), want)
    # a prompt without pictures has nothing that could be removed, which is another graph
    graphs, _ = counted()
    assert graphs == 2


def test_beams_reorder_what_is_noted_of_their_rows() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS["ragged"]):
        want = greedy(of, call, num_beams=3)
        assert torch.equal(greedy(of, call, num_beams=3, **STATIC), want)


@pytest.mark.parametrize("name", ["pre_llm", "pyramid", "ragged", "compact"])
def test_calls_by_hand_are_those_with_a_cache_that_grows(name: str) -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, COMBINATIONS[name]):
        want = behind(of, call, None)
        cache = static(of)
        for _ in range(2):
            for found, logits in zip(behind(of, call, cache), want, strict=True):
                torch.testing.assert_close(found, logits, rtol=1e-5, atol=1e-5)
            cache.reset()


def test_a_copy_of_a_cache_goes_on_by_itself() -> None:
    of, call = model(), inputs(SHORT)
    cache, step = static(of), {"input_ids": NEW[:, :1]}
    with tokenprune.attach(of, COMBINATIONS["pyramid"]), torch.no_grad():
        of(**call, **with_cache(of, cache))
        other = copy.deepcopy(cache)
        want = of(**step, **with_cache(of, cache)).logits
        assert torch.equal(of(**step, **with_cache(of, other)).logits, want)


def test_a_step_that_is_compiled_by_hand_is_one_graph() -> None:
    of, call = model(), inputs(SHORT)
    cache, step = static(of), {"input_ids": NEW[:, :1]}
    with tokenprune.attach(of, COMBINATIONS["pyramid"]), torch.no_grad():
        out, _ = of(**call), of(**call, **with_cache(of, cache))
        fast = torch.compile(of, backend="eager", fullgraph=True)
        for _ in range(3):
            want = of(**step, **with_cache(of, cache_of(out))).logits
            found = fast(**step, **with_cache(of, cache)).logits
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


class Reads(TorchDispatchMode):
    """Counts what would make the CPU wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_nothing_of_the_device() -> None:
    of, call = model(), inputs(SHORT)
    cache = static(of)
    with tokenprune.attach(of, COMBINATIONS["pyramid"]), torch.no_grad():
        of(**call, **with_cache(of, cache))
        with Reads() as reads:
            of(input_ids=NEW[:, :1], **with_cache(of, cache))
    assert reads.count == 0


def image_behind(of: Any, call: dict[str, Tensor], cache: Any) -> None:
    of(**call, **with_cache(of, cache))


def generate_behind(of: Any, call: dict[str, Tensor], cache: Any) -> None:
    of.generate(**call, **with_cache(of, cache), max_new_tokens=2)


def whole_mask(of: Any, call: dict[str, Tensor], cache: Any) -> None:
    mask = torch.ones(1, 1, 1, ROOM, dtype=torch.bool)
    of(input_ids=NEW[:, :1], attention_mask=mask, **with_cache(of, cache))


def long_mask(of: Any, call: dict[str, Tensor], cache: Any) -> None:
    mask = torch.ones(1, call["input_ids"].shape[1] + 2, dtype=torch.long)
    of(input_ids=NEW[:, :1], attention_mask=mask, **with_cache(of, cache))


def crop(of: Any, call: dict[str, Tensor], cache: Any) -> None:
    cache.crop(-1)


REFUSED: dict[str, tuple[Callable[..., None], str]] = {
    "a picture behind it": (image_behind, "images behind an existing KV cache"),
    "generate behind it": (generate_behind, "this cache of fixed length holds"),
    "a mask for every layer": (whole_mask, "of shape"),
    "a mask of another length": (long_mask, "in a step that ends with"),
    "cropping": (crop, "of fixed length"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_filled_cache_cannot_serve_is_refused(what: str) -> None:
    act, message = REFUSED[what]
    of, call = model(), inputs(SHORT)
    cache, step = static(of), {"input_ids": NEW[:, :1]}
    with tokenprune.attach(of, COMBINATIONS["pyramid"]), torch.no_grad():
        of(**call, **with_cache(of, cache))
        other = copy.deepcopy(cache)
        with pytest.raises(UnsupportedCallError, match=message) as caught:
            act(of, call, cache)
        assert caught.value.remedy
        want = of(**step, **with_cache(of, other)).logits
        assert torch.equal(of(**step, **with_cache(of, cache)).logits, want)


def test_other_models_and_other_plans_are_refused_behind_it() -> None:
    of, call = model(), inputs(SHORT)
    cache, step = static(of), {"input_ids": NEW[:, :1]}
    with tokenprune.attach(of, COMBINATIONS["pre_llm"]):
        greedy(of, call, **STATIC)
        with torch.no_grad():
            of(**call, **with_cache(of, cache))
    with torch.no_grad():
        with pytest.raises(UnsupportedCallError, match="shortened by a plan"):
            of(**step, **with_cache(of, cache))
        with (
            tokenprune.attach(of, plan(drawn(5))),
            pytest.raises(UnsupportedCallError, match="by another plan"),
        ):
            of(**step, **with_cache(of, cache))
    assert greedy(of, call, **STATIC).shape == greedy(of, call).shape


def test_a_cache_of_text_alone_serves_every_model() -> None:
    of, call, step = model(), inputs(TEXT), {"input_ids": NEW[:, :1]}
    whole = torch.ones(1, 1, len(TEXT), ROOM, dtype=torch.bool).tril()
    caches = [static(of) for _ in range(3)]
    with torch.no_grad():
        dense = of(**call)
        want = of(**step, **with_cache(of, cache_of(dense))).logits
        with tokenprune.attach(of, COMBINATIONS["pyramid"]):
            of(**call, **with_cache(of, caches[0]))
            of.generate(**call, **with_cache(of, caches[1]), max_new_tokens=1)
            found = of(**{**call, "attention_mask": whole}, **with_cache(of, caches[2])).logits
            torch.testing.assert_close(found, dense.logits)
        for cache in caches:
            found = of(**step, **with_cache(of, cache)).logits
            torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def test_a_window_that_slides_over_it_is_refused() -> None:
    of, call = model(), inputs(SHORT)
    kinds = ["sliding_attention", *["full_attention"] * (len(of.model.language_model.layers) - 1)]
    cache = static(of, layer_types=kinds, sliding_window=9)
    with tokenprune.attach(of, COMBINATIONS["pre_llm"]), torch.no_grad():
        with pytest.raises(UnsupportedCallError, match="layer 0 of this StaticCache"):
            of(**call, **with_cache(of, cache))
        of(**call)


def test_a_window_of_all_layers_bounds_what_a_cache_has_room_for() -> None:
    from transformers import CLIPVisionConfig, MistralConfig, StaticCache

    call = inputs(SHORT, LONG)
    length, left = call["input_ids"].shape[1], len(LONG) - 2 + 2 * 9
    language = MistralConfig(**models._language(), sliding_window=length + STEPS + 1)
    of = models._llava(CLIPVisionConfig(**models._vision()), language, "sdpa")
    with tokenprune.attach(of, COMBINATIONS["pre_llm"]):
        want = greedy(of, call)
        assert torch.equal(greedy(of, call, **STATIC), want)
        caches = [
            StaticCache(config=language, max_cache_len=left + n) for n in (STEPS + 1, STEPS + 2)
        ]
        assert torch.equal(greedy(of, call, **with_cache(of, caches[0])), want)
        with pytest.raises(
            UnsupportedCallError, match=f"a sequence of {length + STEPS + 2} tokens"
        ):
            greedy(of, call, **with_cache(of, caches[1]))


@pytest.mark.parametrize("name", ["pre_llm", "pyramid"])
def test_a_mask_as_long_as_the_cache_is_refused_with_a_prompt(name: str) -> None:
    of, call = model(), inputs(SHORT, LONG)
    mask = torch.nn.functional.pad(call["attention_mask"], (0, ROOM - call["input_ids"].shape[1]))
    with tokenprune.attach(of, COMBINATIONS[name]), torch.no_grad():
        for cache in (static(of), None):
            with pytest.raises(UnsupportedCallError, match=f"a mask of {ROOM} tokens") as caught:
                of(**{**call, "attention_mask": mask}, **with_cache(of, cache))
            assert caught.value.where == "attention_mask"
            assert caught.value.remedy
        of(**call, **with_cache(of, static(of)))


def test_room_for_what_is_left_is_enough() -> None:
    from transformers import StaticCache

    of, call = model(), inputs(LONG)
    text = of.config.get_text_config()
    with tokenprune.attach(of, plan(drawn(4))):
        want = greedy(of, call)
        left = len(LONG) - 2 + 2 * 4
        enough = StaticCache(config=text, max_cache_len=left + want.shape[1])
        assert torch.equal(greedy(of, call, **with_cache(of, enough)), want)
        short = StaticCache(config=text, max_cache_len=left - 1)
        with pytest.raises(UnsupportedCallError, match=f"{left} tokens are left") as caught:
            greedy(of, call, **with_cache(of, short))
        assert f"max_cache_len={left}" in str(caught.value.remedy)


def test_an_attention_that_is_not_of_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, COMBINATIONS["pre_llm"]), torch.no_grad():
        config = of.model.language_model.config
        monkeypatch.setattr(config, "_attn_implementation_internal", "flex_attention")
        with pytest.raises(UnsupportedCallError, match="needs the attention sdpa or eager"):
            of(**call, **with_cache(of, static(of)))
