"""Index arithmetic and masks of shortened sequences, against loops."""

from __future__ import annotations

import pytest
import torch

from tokenprune.engine.images import ImageTokens, by_row
from tokenprune.engine.llm.attention import last_query_attention, query_places
from tokenprune.engine.llm.level import Level, shorten, spread, take, whole
from tokenprune.engine.llm.masks import narrow
from tokenprune.errors import UnsupportedCallError


def bools(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


VALID = bools(["0011111111", "1111111111", "1111111000"])
STAY = bools(["0010110011", "1000000001", "1111111000"])


def level() -> Level:
    return shorten(whole(VALID), STAY)


def test_shorten_keeps_the_order_and_pads_in_front() -> None:
    short = level()
    assert short.length == 7
    assert short.padded
    for row in range(3):
        want = STAY[row].nonzero()[:, 0].tolist()
        assert short.full[row][short.valid[row]].tolist() == want
        assert short.valid[row].tolist() == sorted(short.valid[row].tolist())
        gone = [int((VALID & ~STAY)[row, :place].sum()) for place in want]
        assert short.shift[row][short.valid[row]].tolist() == gone
    assert short.removed.tolist() == [3, 8, 0]


def test_levels_compose() -> None:
    first = level()
    again = first.valid.clone()
    again[0, 3] = again[2, 0] = again[2, 5] = False
    second = shorten(first, again)
    states = torch.randn(3, 10, 2)
    twice = take(take(states, first.source), second.source)
    assert torch.equal(twice, take(states, second.full))
    assert torch.equal(twice, take(states, second.base))


def test_spread_fills_with_the_nearest_kept_state_before() -> None:
    short, states = level(), torch.randn(3, 7, 4)
    full = spread(states, short, 10)
    for row in range(3):
        last = torch.zeros(4)
        for place in range(10):
            here = (short.full[row] == place) & short.valid[row]
            if here.any():
                last = states[row, int(here.nonzero())]
            assert torch.equal(full[row, place], last)


@pytest.mark.parametrize("kind", ["none", "bool", "additive", "flat"])
def test_masks_show_what_they_showed_before(kind: str) -> None:
    valid = torch.ones(3, 10, dtype=torch.bool) if kind == "none" else VALID
    stay = STAY & valid
    short = shorten(whole(valid), stay)
    causal = torch.ones(10, 10, dtype=torch.bool).tril() & valid[:, None, None, :]
    lowest = torch.finfo(torch.float32).min
    mask = {
        "none": None,
        "flat": valid.long(),
        "bool": causal,
        "additive": torch.zeros(3, 1, 10, 10).masked_fill(~causal, lowest),
    }[kind]
    got = narrow(
        mask, short.base, short.valid, padded=short.padded, square=True, flat=kind == "flat"
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
                a, b = int(short.full[row, q]), int(short.full[row, k])
                want = bool(short.valid[row, k]) and b <= a
                assert bool(seen[row, 0, q, k]) == want


def test_no_mask_stays_none_without_dummies() -> None:
    short = shorten(whole(torch.ones(2, 4, dtype=torch.bool)), bools(["1011", "0111"]))
    assert narrow(None, short.base, short.valid, padded=False, square=True, flat=False) is None


def test_block_masks_are_refused() -> None:
    with pytest.raises(UnsupportedCallError, match="dict"):
        narrow({}, STAY.long(), STAY, padded=True, square=True, flat=False)


def test_last_query_attention_is_a_causal_row_of_grouped_heads() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 10, 8, generator=generator)
    key = torch.randn(3, 2, 10, 8, generator=generator)
    column = torch.tensor([9, 5, 6])
    got = last_query_attention(query, key, column, VALID)
    for row in range(3):
        total = torch.zeros(10)
        for head in range(4):
            scores = key[row, head // 2] @ query[row, head, column[row]] / 8**0.5
            seen = VALID[row] & (torch.arange(10) <= column[row])
            total += scores.masked_fill(~seen, float("-inf")).softmax(0)
        torch.testing.assert_close(got[row], total / 4)


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
