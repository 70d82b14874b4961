"""The reference's own arithmetic, against plain loops."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tokenprune.engine.patching import Patches
from tokenprune.errors import ReductionError
from tokenprune.interface.calls import LayerCall
from tokenprune.interface.places import Places
from tokenprune.interface.sites import Site
from tokenprune.interface.trace import Trace
from tokenprune.lab.verify.names import padded
from tokenprune.testing.plain.comparing import Difference, share
from tokenprune.testing.plain.fate import NEVER, Fate, fate_of
from tokenprune.testing.plain.hiding import HiddenKeys, closed
from tokenprune.testing.plain.standing import stands_of

LENGTH, GONE = 6, torch.tensor([True, False, True, False, False])


def visible(mask: torch.Tensor, query: int, key: int) -> bool:
    value = mask[0, 0, query, key]
    return bool(value) if mask.dtype == torch.bool else float(value) == 0.0


@pytest.mark.parametrize("kind", ["none", "bool", "additive"])
@pytest.mark.parametrize("past", [0, 5])
def test_removed_keys_are_seen_by_nobody_else(kind: str, past: int) -> None:
    total, queries = past + LENGTH, LENGTH
    causal = torch.arange(total)[None] <= torch.arange(past, total)[:, None]
    given: Any = None
    if kind == "bool":
        given = causal[None, None]
    elif kind == "additive":
        given = torch.zeros(1, 1, queries, total).masked_fill(~causal, torch.finfo().min)
    mask = closed(given, GONE, past, torch.zeros(1, queries, 4), flat=False)
    for query in range(queries):
        for key in range(total):
            own = key == past + query
            gone = key < len(GONE) and bool(GONE[key])
            assert visible(mask, query, key) is (own or (key <= past + query and not gone))


@pytest.mark.parametrize("given", [None, torch.tensor([[0, 1, 1, 1, 1, 1]])])
def test_flat_masks_lose_columns(given: torch.Tensor | None) -> None:
    mask = closed(given, GONE, 0, torch.zeros(1, LENGTH, 4), flat=True)
    assert mask.tolist() == [[0, 1, 0, 1, 1, 1]]


def test_a_windows_mask_ends_with_the_same_tokens() -> None:
    given = torch.ones(1, 1, 1, 4, dtype=torch.bool)  # of a cache that slid: tokens 3 to 6
    hide = torch.tensor([True, True, True, False, True, False])
    mask = closed(given, hide, 6, torch.zeros(1, 1, 4), flat=False)
    assert mask[0, 0, 0].tolist() == [True, False, True, True]


class Layer(nn.Module):
    """Hands on streams of every token, and notes what its queries are told to see."""

    seen: Any = None

    def forward(self, hidden: torch.Tensor, see: Any = None) -> torch.Tensor:
        self.seen = see
        return hidden


class StreamsAdapter:
    """How such layers are called."""

    layers = (Layer(), Layer())

    def spec(self) -> Any:
        return SimpleNamespace(layers=self.layers)

    def padding_masks(self) -> bool:
        return False

    def read_layer(self, layer: nn.Module, args: Any, kwargs: Any) -> LayerCall:
        return LayerCall(args[0], kwargs.get("see"))

    def write_layer(self, layer: nn.Module, call: LayerCall, args: Any, kwargs: Any) -> Any:
        return (call.hidden,), {"see": call.mask}


def test_layers_with_streams_are_told_of_tokens() -> None:
    adapter: Any = StreamsAdapter()
    leaves = torch.full((LENGTH,), NEVER)
    leaves[2] = 1
    patches = Patches()
    HiddenKeys(adapter, Fate(leaves)).install(patches)
    for past, queries in ((0, LENGTH), (LENGTH, 1)):
        for layer in adapter.layers:
            layer(torch.zeros(1, queries, 3, 4))
        first, second = (layer.seen for layer in adapter.layers)
        assert first is None
        assert second.shape == (1, 1, queries, past + queries)
        assert not visible(second, queries - 1, 2)
        assert visible(second, queries - 1, 1)
    patches.undo()


def test_when_tokens_leave_is_read_from_the_trace() -> None:
    trace = Trace()
    (image,) = trace.begin(1, (1, 2, 2))
    trace.record(Site("pre_llm", 4, 4), "a", [image], torch.tensor([[0, 1, -1, 2]]),
                 torch.tensor([[0, 1, 3]]))  # fmt: skip
    trace.record(Site("decoder", 2, 4), "b", [image], torch.tensor([[-1, 0, -1]]),
                 torch.tensor([[1]]))  # fmt: skip
    ids = torch.tensor([1, 9, 9, 9, 9, 9, 2])
    stands = stands_of(ids, {"image": 9}, [("image", Places((1, 2, 2), {0: None}))])
    fate = fate_of(len(ids), stands, trace.images, [], trimmed=-1)
    assert fate.leaves.tolist() == [NEVER, NEVER, 2, NEVER, 0, 2, NEVER]
    assert fate.hidden(1).nonzero()[:, 0].tolist() == [4]
    assert fate.hidden(2).nonzero()[:, 0].tolist() == [2, 4, 5]
    trimmed = Fate(fate.leaves, trimmed=2)
    assert trimmed.hidden(0).nonzero()[:, 0].tolist() == [4]
    assert trimmed.hidden(0, decoding=True).nonzero()[:, 0].tolist() == [2, 4, 5]


def test_separators_leave_with_the_last_unit_of_their_line() -> None:
    trace = Trace()
    first, second = trace.begin(1, (1, 2, 2)) + trace.begin(1, (1, 1, 1))
    trace.record(Site("pre_llm", 0, 0), "a", [first], torch.tensor([[-1, -1, 0, 1]]),
                 torch.tensor([[2, 3]]))  # fmt: skip
    trace.record(Site("decoder", 3, 4), "b", [first], torch.tensor([[0, -1]]),
                 torch.tensor([[2]]))  # fmt: skip
    lines = Places((1, 2, 2), {2: (0, 2), 5: (3, 5)})
    ids = torch.tensor([1, 9, 9, 9, 9, 9, 9, 8, 2])
    shown = [("image", lines), ("video", Places((1, 1, 1)))]
    stands = stands_of(ids, {"image": 9, "video": 8}, shown)
    assert stands[0].units.tolist() == [1, 2, 4, 5]
    fate = fate_of(len(ids), stands, trace.images, [], trimmed=-1)
    assert fate.leaves.tolist() == [NEVER, 0, 0, 0, NEVER, 3, NEVER, NEVER, NEVER]
    assert second == 1


def test_pictures_that_are_not_those_of_the_prompt_are_an_error() -> None:
    ids = torch.tensor([1, 9, 9, 2])
    for side, told in ((1, "1 placeholders too many"), (3, "1 placeholders too few")):
        with pytest.raises(ReductionError, match=told):
            stands_of(ids, {"image": 9}, [("image", Places((1, 1, side)))])


def test_differences_are_shares_and_never_hidden() -> None:
    reference = torch.tensor([1.0, -4.0])
    assert share(torch.tensor([1.0, -3.0]), reference) == 0.25
    assert share(reference, reference) == 0
    assert share(torch.tensor([1.0, float("nan")]), reference) == float("inf")
    assert share(torch.zeros(3), reference) == float("inf")
    total = Difference()
    total.add(reference, reference)
    total.add(torch.zeros(2), reference)
    assert (total.value, total.values) == (1.0, 4)


def test_padding_stands_in_front_of_everything_that_has_a_value_a_token() -> None:
    ids = torch.tensor([[5, 6, 7]])
    found = padded({"input_ids": ids, "kinds": ids, "pixel_values": torch.zeros(1, 3, 2)}, 2)
    assert found["input_ids"].tolist() == found["kinds"].tolist() == [[0, 0, 5, 6, 7]]
    assert found["attention_mask"].tolist() == [[0, 0, 1, 1, 1]]
    assert found["pixel_values"].shape == (1, 3, 2)
