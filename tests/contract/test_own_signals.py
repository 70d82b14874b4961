"""A plugin defines a signal and a strategy that reads it: on encoders and in front of an LLM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import tokenprune
from tests import models
from tests.adapters.variants import adapted
from tests.contract.cases import footprint, plan
from tests.plugin import registering
from tokenprune.errors import PlanError, SignalError, UnknownNameError
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import (
    BlockAttention,
    BlockOutput,
    ClassOutput,
    LayerBefore,
    Question,
    Signal,
)
from tokenprune.interface.sites import Site, Stage
from tokenprune.interface.strategy import PruningStrategy, ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.ops import attention_rows
from tokenprune.plugins.host import register_plugin
from tokenprune.plugins.signals import known_signals

BLOCK = 1


def strongest(view: BlockAttention) -> Tensor:
    weights = attention_rows(view.query[:, :, view.prefix :], view.key, bias=view.bias)
    return weights[..., view.prefix :].mean(dim=2).amax(dim=1)


STRONGEST = Signal(
    "t_strongest", "[B, N] maximum over heads of what a token receives", BlockAttention, strongest
)
NORM = Signal(
    "t_norm", "[B, N] length of the states", BlockOutput, lambda view: view.patches.norm(dim=-1)
)
CLASS = Signal(
    "t_class", "[B, P, D] class token", ClassOutput, lambda view: view.hidden[:, : view.prefix]
)
HALF = Signal("t_half", "[B, d] half the question", Question, lambda view: view.state / 2)


class Strongest(ScoreStrategy[StrategyParams]):
    """Keeps what some head looks at."""

    name = "t-strongest"
    stages = (Encoder(),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (STRONGEST,)

    def score(self, tokens: Tokens) -> Tensor:
        self.seen.append(tokens)
        return tokens.signal(STRONGEST)


class Later(Strongest):
    """The same behind the encoder, of two blocks, with other signals of the plugin."""

    name = "t-later"
    stages = (PreLlm(),)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (
            *(STRONGEST, STRONGEST.at(BLOCK), NORM.at(BLOCK), CLASS.at(BLOCK)),
            *(HALF, Signal.QUESTION_STATE),
        )


class AsksParams(StrategyParams):
    case: str


class Asks(PruningStrategy[AsksParams]):
    """Asks for something that can't be had."""

    name = "t-asks"
    Params = AsksParams
    stages = (Encoder(), PreLlm(), Decoder())

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (CASES[self.params.case],)

    def reduce(self, tokens: Tokens, budget: Any) -> Reduction:
        tokens.signal(CASES[self.params.case])
        return Reduction.keep(
            torch.arange(budget.keep).expand(len(tokens.hidden), -1), tokens.count
        )


class AsksBefore(Asks):
    """The same in front of blocks."""

    name = "t-asks-before"
    stages = (Encoder(where="before"),)


CASES = {
    "nothing computes it": Signal("mood", "[B] how it feels"),
    "taken": Signal("keys", "[B, N, d] other keys", BlockAttention, lambda view: view.query.sum(1)),
    "by name only": Signal("keys"),
    "same name": Signal(
        "t_strongest", "[B, N] else", BlockAttention, lambda view: view.key[:, 0, 1:, 0]
    ),
    "of the LLM": Signal("t_llm", "[B, N] sum", LayerBefore, lambda view: view.key.sum((1, 3))),
    "wrong shape": Signal(
        "t_wrong", "[B, N] sum", BlockAttention, lambda view: view.key[:, 0, :, 0]
    ),
    "wrong axes": Signal("t_axes", "[B, N] keys", BlockAttention, lambda view: view.key[:, 0, 1:]),
    "keys": Signal.KEYS,
    "previous": Signal.PREVIOUS_HIDDEN,
    "companions": Signal.COMPANIONS,
}  # fmt: skip


def asking(case: str, at: Stage = "encoder", name: str = "t-asks", **rest: Any) -> dict[str, Any]:
    return {"at": at, "strategy": name, "keep": 9, "params": {"case": case}, **rest}


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    Strongest.seen.clear()
    with register_plugin(registering(Strongest, Later, Asks, AsksBefore), "own-signals"):
        yield


def entering(vision: Any, block: int, run: Callable[[], Any]) -> Tensor:
    """What enters a block of a plain encoder, `[B, P + N, D]`."""
    found: list[Tensor] = []
    handle = vision.blocks[block].register_forward_pre_hook(
        lambda module, args, kwargs: found.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        run()
    handle.remove()
    return found[0]


@torch.no_grad()
def expected(adapter: Any, block: int, hidden: Tensor) -> Tensor:
    """Head by head, the mean of every column of the softmax over patch queries; the largest."""
    prefix = adapter.spec().prefix
    query, key, _ = adapter.heads(adapter.spec().blocks[block], hidden)
    batch, heads, length, width = query.shape
    found = torch.zeros(batch, length - prefix)
    for b in range(batch):
        for h in range(heads):
            received = torch.zeros(length)
            for row in range(prefix, length):
                received += (key[b, h] @ query[b, h, row] / width**0.5).softmax(0)
            mean = received[prefix:] / (length - prefix)
            found[b] = torch.maximum(found[b], mean)
    return found


@pytest.mark.parametrize("build", [models.clip_vision, models.siglip_vision, models.timm_vit])
def test_inside_an_encoder(build: Callable[[], Any]) -> None:
    model, pictures = build(), models.pixels(2)
    adapter = adapted(model)
    want = expected(adapter, 2, entering(adapter.spec(), 2, lambda: model(pictures)))
    stage = plan({"strategy": "t-strongest", "layer": 2}, keep=9)
    with tokenprune.attach(model, stage) as handle, torch.no_grad():
        model(pictures)
        kept = [image.steps[0].anchor.tolist() for image in handle.trace.images]
    (tokens,) = Strongest.seen
    torch.testing.assert_close(tokens.signal(STRONGEST), want, atol=1e-6, rtol=1e-4)
    assert kept == [sorted(row.topk(9).indices.tolist()) for row in want]


def test_in_front_of_an_llm_and_of_a_chosen_block() -> None:
    from tests.mllm.calls import SHORT, inputs, logits

    of, call = models.llava_clip(), inputs(SHORT)
    adapter = adapted(of.model.vision_tower)
    used = adapter.spec().used - 1  # the feature layer is the last but one
    run = {
        block: entering(
            adapter.spec(), block, lambda: of.model.vision_tower(call["pixel_values"])
        )
        for block in (BLOCK, BLOCK + 1, used - 1)
    }  # fmt: skip
    stage = {"at": "pre_llm", "strategy": "t-later", "keep": 9}
    with tokenprune.attach(of, {"schema_version": 1, "stages": [stage]}):
        logits(of, call)
    (tokens,) = Strongest.seen
    for signal, block in ((STRONGEST, used - 1), (STRONGEST.at(BLOCK), BLOCK)):
        want = expected(adapter, block, run[block])
        torch.testing.assert_close(tokens.signal(signal), want, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(tokens.signal(CLASS.at(BLOCK)), run[BLOCK + 1][:, :1])
    norm = run[BLOCK + 1][:, 1:].norm(dim=-1)
    torch.testing.assert_close(tokens.signal(NORM.at(BLOCK)), norm, atol=1e-5, rtol=1e-4)
    assert torch.equal(tokens.signal(HALF) * 2, tokens.signal(Signal.QUESTION_STATE))


def test_tokens_take_their_values_with_them_and_class_tokens_keep_theirs() -> None:
    from tests.mllm.calls import LONG, inputs, logits

    of, call = models.llava_clip(), inputs(LONG)
    whole = {"at": "pre_llm", "strategy": "t-later", "keep": 36}
    inside = {"at": "encoder", "strategy": "random", "layer": 2, "keep": 9}
    for stages in ([whole], [inside, {**whole, "keep": 6}, {**whole, "keep": 3}]):
        with tokenprune.attach(of, {"schema_version": 1, "stages": stages}):
            logits(of, call)
    plain, first, second = Strongest.seen
    assert (first.count, second.count) == (9, 6)
    for tokens in (first, second):
        for signal in (STRONGEST.at(BLOCK), NORM.at(BLOCK)):
            own = plain.signal(signal).gather(1, tokens.index)
            torch.testing.assert_close(tokens.signal(signal), own)
        torch.testing.assert_close(tokens.signal(CLASS.at(BLOCK)), plain.signal(CLASS.at(BLOCK)))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing computes it": (asking("nothing computes it"), "mood, and nothing says"),
    "another of that name": (asking("taken"), "name 'keys'.*Signal.KEYS"),
    "the name alone": (asking("by name only"), r"Signal\.KEYS"),
    "a need of LLMs": (asking("of the LLM"), "t_llm, which exists at decoder only"),
    "in front of blocks": (asking("keys", name="t-asks-before"), "inside them only"),
    "before the first block": (asking("previous", layer=0), "block 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nothing_computes_is_refused_at_attach(name: str) -> None:
    stage, said = REFUSED[name]
    model = models.clip_vision()
    before = footprint(model)
    with pytest.raises(SignalError, match=said) as caught:
        tokenprune.attach(model, {"schema_version": 1, "stages": [stage]})
    assert "stages.0" in caught.value.where
    assert footprint(model) == before


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([asking("nothing computes it", "decoder", layer=2)], "mood, and nothing says"),
        ([asking("companions", "pre_llm")], "companions and has none"),
        ([asking("previous", "pre_llm")], "encoder only"),
        (
            [{"at": "pre_llm", "strategy": "t-later", "keep": 20}, asking("same name", "pre_llm")],
            "'t-asks' and 't-later' mean different",
        ),
    ],
)
def test_so_it_is_around_an_llm(stages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(SignalError, match=said):
        tokenprune.attach(models.llava_clip(), {"schema_version": 1, "stages": stages})


@pytest.mark.parametrize(
    ("case", "said"),
    [("wrong shape", r"t_wrong.*\[2, 37\].*N = 36"), ("wrong axes", r"t_axes.*\[2, 36, ")],
)
def test_a_function_of_another_shape_is_named(case: str, said: str) -> None:
    model = models.clip_vision()
    stages = {"schema_version": 1, "stages": [asking(case, layer=2)]}
    with tokenprune.attach(model, stages), pytest.raises(SignalError, match=said):
        model(models.pixels(2))


def test_a_row_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(SignalError, match="both a need and a function"):
        Signal("half", "[B, N] a need alone", BlockAttention)
    for meaning in ("no shape", "[B, D] mean state", "[N] one image"):
        with pytest.raises(SignalError, match=r"\[B, N, \.\.\.\]"):
            Signal("odd", meaning, BlockAttention, strongest)
    with pytest.raises(SignalError, match="no block"):
        Signal.LAST_QUERY_ATTENTION.at(3)


def test_signals_are_found_by_name() -> None:
    assert Signal.named("keys") == Signal.KEYS
    chosen = Signal.named("keys@5")
    assert (chosen, chosen.block, chosen.kind) == (Signal.KEYS.at(5), 5, Signal.KEYS)
    for name in ("keyz", "keys@", "keys@-1", "keys@last"):
        with pytest.raises(UnknownNameError, match="keys"):
            Signal.named(name)
    assert issubclass(UnknownNameError, PlanError)


def test_listings_know_the_signals_of_plugins() -> None:
    known = {one.signal.name: one for one in known_signals()}
    assert [*known][: len(Signal.shipped())] == [*Signal.shipped()]
    own = known["t_strongest"]
    assert own.strategies == ("t-later", "t-strongest")
    assert {"clip", "siglip", "timm", "llava + clip"} <= {*own.families}
    assert known["t_norm"].families[0].startswith("llava"), "only around an LLM"
    assert known["t_half"].data() == {
        "name": "t_half",
        "shape": "[B, d]",
        "meaning": "half the question",
        "stages": ["pre_llm"],
        "needs": Question.title,
        "strategies": ["t-later"],
        "families": ["llava + clip", "llava + siglip"],
    }
