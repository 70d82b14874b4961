"""Index arithmetic and masks of shortened sequences, against loops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.llm.calls import shortened
from tokenprune.engine.llm.cut import Cut
from tokenprune.engine.llm.flow import Flow
from tokenprune.engine.llm.layout import Layout
from tokenprune.engine.llm.level import Level, shorten, spread, take, whole
from tokenprune.engine.llm.masks import input_mask, narrow
from tokenprune.engine.llm.prompt import query_places
from tokenprune.errors import UnsupportedCallError
from tokenprune.interface.calls import ArgumentNames, LayerCall, LlmCall
from tokenprune.interface.specs import MllmSpec


def bools(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


VALID = bools(["0011111111", "1111111111", "1111111000"])
STAY = bools(["0010110011", "1000000001", "1111111000"])


def uncut(valid: torch.Tensor) -> Level:
    return whole(valid, valid.sum(dim=1).tolist(), renumbers=True)


def cut_to(before: Level, stay: torch.Tensor) -> Level:
    return shorten(before, stay, stay.sum(dim=1).tolist())


def level() -> Level:
    return cut_to(uncut(VALID), STAY)


def test_shorten_keeps_the_order_and_pads_in_front() -> None:
    short = level()
    assert short.length == 7
    assert short.padded
    assert short.gone is not None
    for row in range(3):
        want = STAY[row].nonzero()[:, 0].tolist()
        assert short.place[row][short.valid[row]].tolist() == want
        assert short.valid[row].tolist() == sorted(short.valid[row].tolist())
        gone = [int((VALID & ~STAY)[row, :place].sum()) for place in want]
        assert short.gone.shift[row][short.valid[row]].tolist() == gone
    assert short.gone.removed.tolist() == [3, 8, 0]


def test_levels_compose() -> None:
    first = level()
    again = first.valid.clone()
    again[0, 3] = again[2, 0] = again[2, 5] = False
    second = cut_to(first, again)
    states = torch.randn(3, 10, 2)
    twice = take(take(states, first.source), second.source)
    assert torch.equal(twice, take(states, second.place))
    assert torch.equal(twice, take(states, second.column))


def test_spread_fills_with_the_nearest_kept_state_before() -> None:
    short, states = level(), torch.randn(3, 7, 4)
    full = spread(states, short, 10)
    for row in range(3):
        last = torch.zeros(4)
        for place in range(10):
            here = (short.place[row] == place) & short.valid[row]
            if here.any():
                last = states[row, int(here.nonzero())]
            assert torch.equal(full[row, place], last)


@pytest.mark.parametrize("kind", ["none", "bool", "additive", "flat"])
def test_masks_show_what_they_showed_before(kind: str) -> None:
    valid = torch.ones(3, 10, dtype=torch.bool) if kind == "none" else VALID
    stay = STAY & valid
    short = cut_to(uncut(valid), stay)
    causal = torch.ones(10, 10, dtype=torch.bool).tril() & valid[:, None, None, :]
    lowest = torch.finfo(torch.float32).min
    mask = {
        "none": None,
        "flat": valid.long(),
        "bool": causal,
        "additive": torch.zeros(3, 1, 10, 10).masked_fill(~causal, lowest),
    }[kind]
    got = narrow(
        mask,
        short.column,
        short.valid,
        padded=short.padded,
        queries=short.column,
        flat=kind == "flat",
    )
    assert got is not None
    if kind == "flat":
        assert torch.equal(got.bool(), short.valid)
        return
    seen = got if got.dtype == torch.bool else got == 0
    for row in range(3):
        for q in range(7):
            assert bool(seen[row, 0, q].any())  # never an empty softmax row
            if not short.valid[row, q]:
                continue
            for k in range(7):
                a, b = int(short.place[row, q]), int(short.place[row, k])
                want = bool(short.valid[row, k]) and b <= a
                assert bool(seen[row, 0, q, k]) == want


def test_no_mask_stays_none_without_dummies() -> None:
    short = cut_to(uncut(torch.ones(2, 4, dtype=torch.bool)), bools(["1011", "0111"]))
    own = short.column
    assert narrow(None, own, short.valid, padded=False, queries=own, flat=False) is None


def test_block_masks_are_refused() -> None:
    with pytest.raises(UnsupportedCallError, match="dict"):
        narrow({}, STAY.long(), STAY, padded=True, queries=None, flat=False)


def test_query_places() -> None:
    visual = bools(["0001100000", "0110000000", "0000000000"])
    assert query_places(VALID, visual, None).tolist() == [9, 9, 6]
    labels = torch.full((3, 10), -100)
    labels[0, 8:], labels[1, 1:3], labels[1, 5:7] = 1, 1, 1
    assert query_places(VALID, visual, labels).tolist() == [7, 4, 6]


def picture(number: int, patches: int = 4) -> ImageTokens:
    return ImageTokens(number, (1, 1, patches), 0, torch.arange(patches), torch.ones(patches))


def test_images_go_to_their_rows_and_copies() -> None:
    images = [picture(n) for n in range(3)]
    rows = by_row([4, 4, 8, 8, 0, 0], images, "prompts")
    assert [[image.number for image in row] for row in rows] == [[0], [0], [1, 2], [1, 2], [], []]
    for counts in ([4, 4], [6, 6], [12, 12, 4], [4, 8, 4, 8]):
        with pytest.raises(UnsupportedCallError, match="placeholders"):
            by_row(counts, images, "prompts")


def test_entries_are_taken_on_any_axis() -> None:
    index = torch.tensor([[0, 3, 4], [1, 2, 5], [0, 1, 2]])
    for shape, axis in (((3, 6), -1), ((4, 3, 6), -1), ((2, 3, 6, 5), 2), ((3, 6, 2, 4), 1)):
        states = torch.randn(shape)
        got, axis = take(states, index, axis), axis % len(shape)
        for row in range(3):
            mine = states.select(axis - 1, row)
            want = torch.stack([mine.select(axis - 1, int(k)) for k in index[row]], dim=axis - 1)
            assert torch.equal(got.select(axis - 1, row), want)
    shared = torch.arange(6).expand(3, 1, 6)
    assert take(shared, index, axis=-1).shape == (3, 3, 3)


WINDOW = 4
PICTURE = bools(["0001111000", "0111000000", "0000001100"])


def family_mask(valid: torch.Tensor, kind: str) -> torch.Tensor:
    """What a family lets its tokens see: both ways within a picture, and a window of places."""
    row = torch.arange(10)
    seen = (row[None] <= row[:, None]) | (PICTURE[:, :, None] & PICTURE[:, None, :])
    if kind == "sliding":
        seen = seen & (row[None] > row[:, None] - WINDOW)
    return (seen & valid[:, None, :])[:, None]


@pytest.mark.parametrize("form", ["bool", "additive"])
def test_a_mask_for_every_type_of_layer_is_cut_on_both_axes(form: str) -> None:
    short, lowest = level(), torch.finfo(torch.float32).min
    given = {kind: family_mask(VALID, kind) for kind in ("full", "sliding")}
    mask: dict[str, torch.Tensor | None] = {**given, "linear": VALID.long(), "plain": None}
    if form == "additive":
        shown = {
            kind: torch.zeros(one.shape).masked_fill(~one, lowest) for kind, one in given.items()
        }
        mask |= shown
    got = input_mask(mask, short, 10, flat=False)
    assert isinstance(got, Mapping)
    assert list(got) == list(mask)
    assert torch.equal(got["linear"], short.valid.long())
    assert got["plain"] is not None  # dummies stand in front, which plain causal order would show
    for kind, whole_mask in given.items():
        one = got[kind]
        assert one is not None
        seen = one if form == "bool" else one == 0
        for row in range(3):
            for q in range(7):
                assert bool(seen[row, 0, q].any())  # never an empty softmax row
                for k in range(7):
                    a, b = int(short.place[row, q]), int(short.place[row, k])
                    if short.valid[row, q]:
                        want = bool(short.valid[row, k]) and bool(whole_mask[row, 0, a, b])
                        assert bool(seen[row, 0, q, k]) == want


def test_masks_that_are_no_prompts_are_refused() -> None:
    static = torch.ones(3, 1, 10, 32, dtype=torch.bool)
    with pytest.raises(UnsupportedCallError, match="static cache"):
        input_mask(static, level(), 10, flat=False)
    with pytest.raises(UnsupportedCallError, match="BlockMask"):
        input_mask(type("BlockMask", (), {})(), level(), 10, flat=False)


def laid_out() -> Layout:
    return Layout("owner", 10, level().entered(), shortened=True)


@pytest.mark.parametrize("rows", [(), (3,), (4,)])
def test_positions_of_any_form_and_further_arguments_are_cut(rows: tuple[int, ...]) -> None:
    layout, axes = laid_out(), {"marks": 1, "depths": 2}
    positions = torch.randint(0, 50, (*rows, 3, 10))
    depths, marks = torch.randn(2, 3, 10, 4), VALID
    call = LlmCall(torch.randn(3, 10, 8), VALID.long(), positions, None, "cache")
    call = replace(call, per_token={"marks": marks, "depths": depths})
    got = shortened(layout, call, compact=False, flat=False, axes=axes)
    assert got.positions is not None
    assert got.embeds is not None
    assert call.embeds is not None
    for row in range(3):
        place = layout.entry.place[row]
        assert torch.equal(got.positions[..., row, :], positions[..., row, :][..., place])
        assert torch.equal(got.embeds[row], call.embeds[row, place])
        assert torch.equal(got.per_token["marks"][row], marks[row, place])
        assert torch.equal(got.per_token["depths"][:, row], depths[:, row][:, place])


def test_positions_in_three_counts_are_not_renumbered() -> None:
    call = LlmCall(torch.randn(3, 10, 8), None, torch.zeros(3, 3, 10, dtype=torch.long))
    with pytest.raises(UnsupportedCallError, match=r"\(3, 3, 10\) position ids") as caught:
        shortened(laid_out(), call, compact=True, flat=False, axes={})
    assert "original" in caught.value.remedy


def test_further_arguments_of_a_layer_are_cut_with_its_tokens() -> None:
    before = uncut(VALID)
    layout = Layout("owner", 10, before, shortened=False, cuts={2: Cut(cut_to(before, STAY), ())})
    rows, per_layer = (torch.randn(3, 10, 4), torch.randn(1, 10, 4)), torch.randn(3, 10, 6)
    call = LayerCall(torch.randn(3, 10, 8), None, None, rows, {"per_layer": per_layer})
    core, names = torch.nn.Module(), ArgumentNames("ids", "pictures", "mask", "encoded")
    spec = MllmSpec(core, core, [], 0, names, per_token={"per_layer": 1})
    flow = Flow(layout, "first", spec, False, False, lambda *_: None)
    assert flow.layer_call(1, call) is call
    got, column = flow.layer_call(2, call), layout.cuts[2].level.column
    assert torch.equal(got.per_token["per_layer"], take(per_layer, column))
    assert got.rotary is not None
    assert [part.shape[1] for part in got.rotary] == [7, 7]
    assert torch.equal(got.rotary[1][0], rows[1][0, column[0]])
