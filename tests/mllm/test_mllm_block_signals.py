"""Signals of encoder blocks of one's choice, against the plain tower, block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tokenprune
from tests.mllm.calls import LONG, SHORT, inputs, logits, model
from tests.mllm.plans import plan, tome
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.errors import SignalError
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.plugins.host import register_plugin

KINDS = {
    "attention_received": Signal.ATTENTION_RECEIVED,
    "attention_given": Signal.ATTENTION_GIVEN,
    "cls_attention": Signal.CLS_ATTENTION,
    "received_from_all": Signal.ATTENTION_RECEIVED_FROM_ALL,
    "cls_joined": Signal.CLS_ATTENTION_JOINED,
    "received_joined": Signal.ATTENTION_RECEIVED_JOINED,
    "keys": Signal.KEYS,
    "keys_joined": Signal.KEYS_JOINED,
    "queries_joined": Signal.QUERIES_JOINED,
    "values_joined": Signal.VALUES_JOINED,
    "cls_similarity": Signal.CLS_SIMILARITY,
    "hidden": Signal.HIDDEN,
    "prefix_states": Signal.PREFIX_STATES,
    "previous_hidden": Signal.PREVIOUS_HIDDEN,
    "question_state": Signal.QUESTION_STATE,
}


class ReadParams(StrategyParams):
    wanted: tuple[str, ...]


class Read(PruningStrategy[ReadParams]):
    """Put the signals named (`kind` or `kind@block`) aside; keep every second token."""

    name = "t-read"
    Params = ReadParams
    stages = (Encoder(), PreLlm(), Decoder())
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        found = []
        for text in self.params.wanted:
            kind, _, block = text.partition("@")
            found.append(KINDS[kind].at(int(block)) if block else KINDS[kind])
        return tuple(found)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        index = torch.arange(budget.keep).expand(tokens.hidden.shape[0], -1)
        return Reduction.keep(index * (tokens.count // budget.keep), tokens.count)


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    Read.seen.clear()
    with register_plugin(registering(Read), "block-signal-tests"):
        yield


def read(*wanted: str, keep: Any = 1.0, **rest: Any) -> dict[str, Any]:
    return {
        "at": "pre_llm", "strategy": "t-read", "keep": keep, "params": {"wanted": wanted}, **rest
    }  # fmt: skip


def seen(kind: str, *stages: dict[str, Any]) -> Tokens:
    of, call = model(kind), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(*stages)):
        logits(of, call)
    return Read.seen[-1]


def plain(kind: str) -> Any:
    """States and attention of every block of the plain tower."""
    tower = model(kind, "eager").model.vision_tower
    with torch.no_grad():
        return tower(
            inputs(SHORT, LONG)["pixel_values"], output_hidden_states=True, output_attentions=True
        )


class Counted(TorchDispatchMode):
    """Counts the operations of tokenprune, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "tokenprune":
            self.calls[func._schema.name.partition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("wanted", [("given",), ("received", "given"), ("given", "received")])
def test_what_tokens_receive_and_give_is_of_one_product(kind: str, wanted: tuple[str, ...]) -> None:
    prefix, names = int(kind == "clip"), [f"attention_{one}@1" for one in wanted]
    with Counted() as counted:
        tokens = seen(kind, read(*names))
    attention = plain(kind).attentions[1].mean(dim=1)[:, prefix:, prefix:]
    want = {"given": attention.mean(dim=2), "received": attention.mean(dim=1)}
    for one in wanted:
        got = tokens.signals[f"attention_{one}@1"]
        torch.testing.assert_close(got, want[one], atol=1e-6, rtol=1e-4)
    # without a prefix every token gives the same
    assert counted.calls["attention_received"] == int(prefix or "received" in wanted)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("block", [0, 1, 2])
def test_they_are_those_of_the_plain_block(kind: str, block: int) -> None:
    prefix = int(kind == "clip")
    names = [f"attention_received@{block}", f"hidden@{block}"]
    names += [f"cls_attention@{block}", f"prefix_states@{block}"] if prefix else []
    tokens, want = seen(kind, read(*names)), plain(kind)
    assert set(tokens.signals) == set(names)
    attention = want.attentions[block].mean(dim=1)
    received = attention[:, prefix:, prefix:].mean(dim=1)
    torch.testing.assert_close(tokens.signals[names[0]], received, atol=1e-6, rtol=1e-4)
    states = want.hidden_states[block + 1][:, prefix:]
    torch.testing.assert_close(tokens.signals[names[1]], states, atol=1e-5, rtol=1e-4)
    if prefix:
        torch.testing.assert_close(
            tokens.signals[names[2]], attention[:, 0, 1:], atol=1e-6, rtol=1e-4
        )
        first = want.hidden_states[block + 1][:, :1]
        torch.testing.assert_close(tokens.signals[names[3]], first, atol=1e-5, rtol=1e-4)


def test_several_blocks_and_the_last_one_without_a_number() -> None:
    tokens = seen("clip", read("cls_attention", "cls_attention@2", "cls_attention@0", "hidden"))
    assert torch.equal(tokens.signals["cls_attention"], tokens.signals["cls_attention@2"])
    assert not torch.allclose(tokens.signals["cls_attention"], tokens.signals["cls_attention@0"])
    torch.testing.assert_close(tokens.signals["hidden"], tokens.hidden)  # the feature layer


@pytest.mark.parametrize("block", [0, 2])
def test_similarity_to_the_class_token_that_the_projector_never_sees(block: int) -> None:
    tokens, want = seen("clip", read(f"cls_similarity@{block}")), plain("clip")
    states = want.hidden_states[block + 1]
    unit = states / states.norm(dim=-1, keepdim=True)
    cosine = (unit[:, 1:] @ unit[:, 0, :, None])[..., 0]
    torch.testing.assert_close(
        tokens.signals[f"cls_similarity@{block}"], cosine, atol=1e-5, rtol=1e-4
    )
    with pytest.raises(SignalError, match="cls_similarity"):
        seen("siglip", read("cls_similarity"))


def test_states_alone_leave_every_block_to_its_own_forward() -> None:
    of, call = model(), inputs(SHORT, LONG)
    dense = logits(of, call)
    with tokenprune.attach(of, plan(read("hidden@0", "hidden@2"))):
        assert torch.equal(logits(of, call), dense)


def test_only_what_was_asked_for_is_kept() -> None:
    class Watched(Read):
        name = "t-watched"
        held: ClassVar[list[dict[str, Tensor]]] = []

        def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
            from tokenprune.engine.call import _active
            from tokenprune.engine.encoder.state import EncoderState

            call = _active.get()
            assert call is not None
            state = call.state(EncoderState)
            assert state is not None
            self.held.append(state.signals)
            return super().reduce(tokens, budget)

    with register_plugin(registering(Watched), "watched"):
        seen("clip", {**read("keys@1", "hidden@0"), "strategy": "t-watched"})
    assert set(Watched.held[0]) == {"keys@1", "hidden@0"}


@pytest.mark.parametrize("block", [0, 1, 2])
def test_they_follow_later_reductions(block: int) -> None:
    """Tokens that leave at block 1 leave the signals of earlier blocks with them."""
    early = {"at": "encoder", "strategy": "random", "keep": 10, "layer": 1}
    name = f"hidden@{block}"
    tokens, want = seen("clip", early, read(name, "keys@0", keep=5)), plain("clip")
    assert tokens.signals["keys@0"].shape[1] == tokens.count == 10
    states = want.hidden_states[1][:, 1:]
    if block == 0:
        picked = states.gather(1, tokens.index[..., None].expand(-1, -1, states.shape[2]))
        torch.testing.assert_close(tokens.signals[name], picked, atol=1e-5, rtol=1e-4)
    elif block == 2:
        torch.testing.assert_close(tokens.signals[name], tokens.hidden)
    assert tokens.signals[name].shape == tokens.hidden.shape


def test_a_second_stage_sees_the_signals_of_what_the_first_one_left() -> None:
    seen("clip", read("cls_attention@0", keep=12), read("cls_attention@0", keep=4))
    first, second = Read.seen
    assert torch.equal(second.signals["cls_attention@0"], first.signals["cls_attention@0"][:, ::3])


@pytest.mark.parametrize("stabilise", [0, 1])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_restoring_stage_gives_every_token_its_signals(kind: str, stabilise: int) -> None:
    ipcv = {
        "at": "encoder", "strategy": "ipcv", "layer": 2, "keep": 14,
        "params": {"stabilise": stabilise},
    }  # fmt: skip
    names = [f"{name}@{block}" for name in ("hidden", "attention_received") for block in (0, 1, 2)]
    tokens, want = seen(kind, ipcv, read(*names)), plain(kind)
    assert tokens.count == 36
    assert all(tokens.signals[name].shape[:2] == (3, 36) for name in names)
    prefix = int(kind == "clip")
    for block in (0, 1):  # before the drop
        states = want.hidden_states[block + 1][:, prefix:]
        torch.testing.assert_close(tokens.signals[f"hidden@{block}"], states, atol=1e-5, rtol=1e-4)
    if kind == "clip":  # block 2 is the last one: what it put out is what the stage gets
        torch.testing.assert_close(tokens.signals["hidden@2"], tokens.hidden)
    total = tokens.signals["attention_received@2"].sum(dim=1)
    if not prefix:
        torch.testing.assert_close(total, torch.ones(3))


def test_behind_merges_they_belong_to_the_anchors() -> None:
    tokens = seen("clip", tome(18), read("keys@0", "cls_attention@1", "hidden@1", keep=9))
    assert {value.shape[1] for value in tokens.signals.values()} == {18}


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (read("keys@4"), "Blocks 0 to 2"),
        (read("hidden@-1"), "Blocks 0 to 2"),
        (read("keys@1", at="encoder", layer=2), "pre_llm only"),
        (read("hidden", at="encoder", layer=2), "pre_llm only"),
        (read("previous_hidden"), "encoder only"),
        (read("keys@1", at="decoder", layer=2), "pre_llm only"),
        (read("question_state", at="encoder", layer=2), "question_state"),
    ],
)
def test_what_does_not_exist_is_refused_at_attach(stage: dict[str, Any], said: str) -> None:
    of = model()
    with pytest.raises(SignalError, match=said) as caught:
        tokenprune.attach(of, plan(stage))
    assert "stages.0" in caught.value.where
    tokenprune.attach(of, plan()).detach()


def test_a_missing_kind_names_who_has_it() -> None:
    with pytest.raises(SignalError, match=r"cls_attention, .*clip, .*timm"):
        tokenprune.attach(model("siglip"), plan(read("cls_attention@1")))
