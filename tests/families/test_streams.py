"""Gemma 3n: several streams of every token inside the LLM, shared keys of both kinds of layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tokenprune
from tests.families.calls import case_of, language, logits
from tests.families.fate import gone
from tests.families.masked import hidden_from
from tests.families.models import gemma3n
from tests.families.models.common import LAYERS, WIDTH, built
from tests.families.plans import layers, plan
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.errors import LayerError, UnsupportedModelError
from tokenprune.interface.placement import Decoder
from tokenprune.plugins.host import register_plugin

NAME, EXACT = "gemma3n", 1e-9
NEW: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


class Look(PruningStrategy[StrategyParams]):
    """Note what a site sees, and leave it as it is."""

    name = "t-streams-look"
    stages = (Decoder(),)
    seen: list[Tokens] = []  # noqa: RUF012

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        return Reduction.keep(
            torch.arange(tokens.count).expand(len(tokens.hidden), -1), tokens.count
        )


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    Look.seen.clear()
    with register_plugin(registering(Look), "family-streams"):
        yield


def changed(dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """The family's model with other settings of its LLM."""
    import transformers

    config = case_of(NAME).config()
    text = {**config.text_config.to_dict(), **settings}
    config.text_config = type(config.text_config).from_dict(text)
    model_class = transformers.Gemma3nForConditionalGeneration
    return built(model_class, config, dtype, "sdpa")


def cut(layer: int, strategy: str = "random") -> dict[str, Any]:
    return plan({"strategy": strategy, "at": "decoder", "layer": layer, "keep": 0.4})


def states(model: Any, call: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return model(**call, output_hidden_states=True).hidden_states


@pytest.mark.parametrize("early", [False, True], ids=["decoder", "pre_llm"])
def test_windows_and_full_attention_whose_keys_later_layers_read(early: bool) -> None:
    case = case_of(NAME)
    types = ["sliding_attention", "full_attention"] * 2
    model = changed(layer_types=types, num_kv_shared_layers=2)
    call = case.inputs("several", dtype=torch.float64)
    wanted = plan({"strategy": "random", "at": "pre_llm", "keep": 0.4}) if early else cut(0)
    with tokenprune.attach(model, wanted) as handle:
        short, tokens = logits(model, call), model.generate(**call, **NEW)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("several"))
    with hidden_from(layers(model), 0, removed):
        full = logits(model, call)
    with hidden_from(layers(model), 0, removed):
        assert torch.equal(tokens, model.generate(**call, **NEW))
    seen = call["attention_mask"].bool() & ~removed
    assert float((short - full)[seen].abs().max()) < EXACT


@pytest.mark.parametrize(("shared", "layer"), [(1, 3), (2, 3), (2, 2)])
def test_layers_behind_the_first_whose_keys_are_read(shared: int, layer: int) -> None:
    told = "layer 3 of this LLM reads the keys" if shared == 1 else "layers 2 to 3 of this LLM read"
    types = ["sliding_attention", *["full_attention"] * 3]
    if shared == 2:
        types = ["sliding_attention", "full_attention"] * 2
    model = changed(layer_types=types, num_kv_shared_layers=shared)
    with pytest.raises(LayerError, match=told):
        tokenprune.attach(model, cut(layer))


def test_a_tower_of_convolutions_is_why_nothing_is_removed_inside() -> None:
    model = case_of(NAME).build()
    stage = {"strategy": "tome", "at": "encoder", "keep": 0.5}
    with pytest.raises(UnsupportedModelError, match="it is convolutional"):
        tokenprune.attach(model, plan(stage))


def test_strategies_see_all_streams_of_a_token_and_what_becomes_of_them() -> None:
    case = case_of(NAME)
    model, call = case.build(torch.float64), case.inputs("one", "none", torch.float64)
    visual = case.placeholders(call)[0]
    streams = states(model, call)[2][:, 0, visual]
    look = {"strategy": "t-streams-look", "at": "decoder", "layer": 2, "keep": 1.0}
    with tokenprune.attach(model, plan(look)):
        logits(model, call)
    (tokens,) = Look.seen
    assert tokens.hidden.shape[-1] == gemma3n.STREAMS * WIDTH
    assert torch.equal(tokens.hidden[0].double(), streams.transpose(0, 1).flatten(1))


def test_the_last_norm_is_that_of_the_mean_of_streams() -> None:
    from tokenprune.engine.adapters import choose_adapter

    case = case_of(NAME)
    model, call = case.build(torch.float64), case.inputs("several", dtype=torch.float64)
    found: list[Tensor] = []
    hook = language(model).register_forward_hook(
        lambda module, args, out: found.append(out.last_hidden_state)
    )
    last = states(model, call)[LAYERS]
    hook.remove()
    beside = last.permute(1, 2, 0, 3).flatten(2)
    adapter: Any = choose_adapter(model)
    with torch.no_grad():
        torch.testing.assert_close(adapter.final_norm(beside), found[0])


def test_hidden_states_come_in_streams_at_the_prompts_own_places() -> None:
    case = case_of(NAME)
    model, call = case.build(torch.float64), case.inputs("several", dtype=torch.float64)
    dense = states(model, call)
    with tokenprune.attach(model, cut(1)) as handle:
        short = states(model, call)
        removed = gone(case, handle.trace, call["input_ids"], case.prompts("several"))
    with hidden_from(layers(model), 1, removed):
        full = states(model, call)
    seen = call["attention_mask"].bool() & ~removed
    assert [one.shape for one in short] == [one.shape for one in dense]
    for one, other in zip(short, full, strict=True):
        assert float((one - other)[:, seen].abs().max()) < EXACT
    row, place = removed.nonzero()[0].tolist()
    before = int(seen[row, :place].nonzero()[-1])
    assert torch.equal(short[2][:, row, place], short[2][:, row, before])


def test_caches_of_layers_whose_keys_are_read_are_trimmed() -> None:
    case = case_of(NAME)
    model = changed(sliding_window=512)
    call = case.inputs("several", dtype=torch.float64)
    with tokenprune.attach(model, cut(2, "prunevid")):
        cached = model.generate(**call, **NEW)
        assert torch.equal(model.generate(**call, **NEW, use_cache=False), cached)


def test_the_tower_of_released_models_gives_a_square_of_256() -> None:
    import transformers

    case = case_of(NAME)
    config = case.config()
    config.vision_config.architecture = "mobilenetv5_300m_enc"
    config.vision_config.model_args = {"channel_multiplier": 0.1}
    config.vision_config.hidden_size = 2048
    config.vision_soft_tokens_per_image = 256
    torch.manual_seed(0)
    model = transformers.Gemma3nForConditionalGeneration(config).eval()
    ids = torch.tensor([[1, 50, gemma3n.START, *[4] * 256, gemma3n.END, 51, 52]])
    call = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 256, 256)}
    early = {"strategy": "divprune", "at": "pre_llm", "keep": 64}
    with tokenprune.attach(model, plan(early, {**cut(2)["stages"][0], "keep": 16})) as handle:
        logits(model, call)
        (image,) = handle.trace.images
    assert image.grid == (1, 16, 16)
    assert [len(step.anchor) for step in image.steps] == [64, 16]
