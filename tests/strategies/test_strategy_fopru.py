import math
from statistics import pvariance
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.fopru import FoPru
from torch import Tensor

from tests.strategies.cases import SITES, budget, make_tokens
from tokenprune.interface.signals import Signal
from tokenprune.interface.tokens import Tokens


def picture(
    received: Tensor, given_: Tensor, grid: tuple[int, int, int], index: Tensor | None = None
) -> Tokens:
    signals = {
        Signal.ATTENTION_RECEIVED: received,
        Signal.ATTENTION_GIVEN: given_,
        Signal.LOGITS_RECEIVED: 1 - received,
        Signal.LOGITS_GIVEN: 1 - given_,
    }
    hidden = torch.randn(*received.shape, 3)
    return make_tokens(hidden, site=SITES["pre_llm"], signals=signals, grid=grid, index=index)


def kept(tokens: Tokens, keep: int, **params: Any) -> list[list[int]]:
    answer = FoPru.from_params(**params).reduce(tokens, budget(tokens, keep))
    assert answer.anchor is not None
    return answer.anchor.tolist()


def by_rank(score: list[float], keep: int) -> list[int]:
    return sorted(sorted(range(len(score)), key=lambda i: (-score[i], i))[:keep])


def by_row(score: list[float], row: list[int], keep: int) -> list[int]:
    sums: dict[int, float] = {}
    for number, value in zip(row, score, strict=True):
        sums[number] = sums.get(number, 0.0) + value
    chosen: list[int] = []
    for number in sorted(sums, key=lambda r: (-sums[r], r)):
        members = [i for i in range(len(score)) if row[i] == number]
        best_first = sorted(members, key=lambda i: (-score[i], i))
        chosen += best_first[: keep - len(chosen)]
    return sorted(chosen)


@given(st.integers(0, 10**6), st.sampled_from(["softmax", "logits"]), st.data())
@settings(deadline=None, max_examples=40)
def test_rank_against_loops(seed: int, scores: str, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    received, given_ = torch.rand(3, 12), torch.rand(3, 12)
    keep = data.draw(st.integers(1, 12))
    answer = kept(picture(received, given_, (1, 3, 4)), keep, scores=scores)
    for sample in range(3):
        first, second = received[sample].tolist(), given_[sample].tolist()
        if scores == "logits":
            first, second = [1 - v for v in first], [1 - v for v in second]
        significance = first if pvariance(first) > pvariance(second) else second
        assert answer[sample] == by_rank(significance, keep)


@given(st.integers(0, 10**6), st.data())
@settings(deadline=None, max_examples=40)
def test_row_against_loops_also_where_tokens_are_gone(seed: int, data: st.DataObject) -> None:
    torch.manual_seed(seed)
    frames, height, width = 2, 3, 4
    total = frames * height * width
    count = data.draw(st.integers(1, total))
    keep = data.draw(st.integers(1, count))
    index = torch.stack([torch.randperm(total)[:count].sort().values for _ in range(2)])
    received = torch.rand(2, count)
    tokens = picture(received, received, (frames, height, width), index)
    answer = kept(tokens, keep, strategy="row", direction="received")
    for sample in range(2):
        rows = [i // width for i in index[sample].tolist()]
        assert answer[sample] == by_row(received[sample].tolist(), rows, keep)


def test_whole_rows_when_the_budget_is_a_multiple() -> None:
    received = torch.tensor([[5.0, 0, 0, 2, 2, 2, 1, 1, 1]])
    tokens = picture(received, torch.zeros(1, 9), (1, 3, 3))
    assert kept(tokens, 6, strategy="row") == [[0, 1, 2, 3, 4, 5]]
    assert kept(tokens, 3, strategy="row") == [[3, 4, 5]]  # the sum decides, not the peak
    assert kept(tokens, 4, strategy="row") == [[0, 3, 4, 5]]  # the rest by rank
    assert kept(tokens, 3) == [[0, 3, 4]]


def test_the_wider_direction_is_chosen_image_by_image() -> None:
    wide, flat = torch.tensor([0.0, 9, 0, 9]), torch.tensor([2.0, 1, 2, 1])
    tokens = picture(torch.stack((wide, flat)), torch.stack((flat, wide)), (1, 2, 2))
    assert kept(tokens, 2) == [[1, 3], [1, 3]]
    assert kept(tokens, 2, direction="received") == [[1, 3], [0, 2]]
    assert kept(tokens, 2, direction="given") == [[0, 2], [1, 3]]


def test_equal_variance_and_constant_maps_fall_back_to_received() -> None:
    up, down = torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[4.0, 3, 2, 1]])
    assert kept(picture(up, down, (1, 2, 2)), 2) == [[2, 3]]
    flat = torch.full((1, 4), 0.25)
    assert kept(picture(flat, flat, (1, 2, 2)), 3) == [[0, 1, 2]]
    assert kept(picture(flat, flat, (1, 2, 2)), 3, strategy="row") == [[0, 1, 2]]
    one = torch.full((1, 1), math.pi)
    assert kept(picture(one, one, (1, 1, 1)), 1) == [[0]]


def test_only_the_signals_in_use_are_asked_for() -> None:
    site = SITES["encoder"]
    received, given_ = Signal.ATTENTION_RECEIVED, Signal.ATTENTION_GIVEN
    assert FoPru.from_params().signals(site) == (received, given_)
    assert FoPru.from_params(direction="received").signals(site) == (received,)
    assert FoPru.from_params(direction="given").signals(site) == (given_,)
    logits = (Signal.LOGITS_RECEIVED, Signal.LOGITS_GIVEN)
    assert FoPru.from_params(scores="logits").signals(site) == logits
