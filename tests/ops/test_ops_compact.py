import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from tokenprune.ops import merge_compact, sum_compact, topk_gather, topk_indices

SCORES = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, math.nan]),
    min_size=1, max_size=12,
)  # fmt: skip


@st.composite
def merges(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int]:
    tokens, length = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    slots = draw(st.lists(st.integers(-1, length - 1), min_size=tokens, max_size=tokens))
    weights = draw(st.lists(st.integers(0, 4), min_size=tokens, max_size=tokens))
    torch.manual_seed(draw(st.integers(0, 99)))
    x = torch.randn(1, tokens, 3)
    return x, torch.tensor([slots]), torch.tensor([weights]).float(), length


@given(merges())
@settings(deadline=None, max_examples=40)
def test_merge_against_loops_and_conservation(case: tuple[Tensor, Tensor, Tensor, int]) -> None:
    x, slot, weight, length = case
    got, sizes = merge_compact(x, slot, weight, length), sum_compact(weight, slot, length)
    for s in range(length):
        members = [n for n in range(x.shape[1]) if slot[0, n] == s]
        total = sum(float(weight[0, n]) for n in members)
        want = torch.zeros(3)
        for n in members:
            want += x[0, n] * float(weight[0, n]) / (total or 1.0)
        torch.testing.assert_close(got[0, s], want)
        assert sizes[0, s] == total
    kept = (slot >= 0)[..., None] * weight[..., None]
    torch.testing.assert_close(
        (got * sizes[..., None]).sum(1), (x * kept).sum(1), atol=1e-4, rtol=0
    )


def test_a_token_alone_in_its_slot_is_unchanged() -> None:
    x = torch.randn(2, 200, 5)
    order = torch.randperm(200)
    weight = torch.rand(2, 200) * 9 + 0.1
    merged = merge_compact(x, order.expand(2, 200), weight, 200)
    assert torch.equal(merged[:, order], x)


def test_dropped_tokens_leave_no_trace() -> None:
    x = torch.tensor([[[math.nan], [2.0], [math.inf], [5.0]]])
    slot = torch.tensor([[-1, 0, 7, 0]])
    assert merge_compact(x, slot, torch.ones(1, 4), 2).tolist() == [[[3.5], [0.0]]]
    assert sum_compact(torch.ones(1, 4), slot, 2).tolist() == [[2.0, 0.0]]


def test_half_precision_accumulates_in_float32() -> None:
    sizes = torch.ones(1, 999, dtype=torch.bfloat16)
    slot = torch.zeros(1, 999, dtype=torch.int64)
    assert sum_compact(sizes, slot, 1).tolist() == [[999.0]]
    merged = merge_compact(torch.ones(1, 999, 2).bfloat16() * 3, slot, sizes, 1)
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [[[3.0, 3.0]]]


def test_merge_gradients() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 5, dtype=torch.float64).add(0.1).requires_grad_()
    slot = torch.tensor([[0, 1, 1, -1, 0], [2, 2, 2, 0, -1]])
    assert gradcheck(lambda a, b: merge_compact(a, slot, b, 3), (x, weight))
    assert gradcheck(lambda b: sum_compact(b, slot, 3), (weight,))
    assert gradcheck(lambda a: topk_gather(weight.detach(), 2, a)[1][0], (x,))


@given(SCORES, st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_topk_against_sorted(scores: list[float], k: int) -> None:
    k = min(k, len(scores))

    def rank(i: int) -> tuple[bool, float, int]:
        nan = math.isnan(scores[i])
        return nan, 0.0 if nan else -scores[i], i

    want = sorted(sorted(range(len(scores)), key=rank)[:k])
    assert topk_indices(torch.tensor([scores]), k).tolist() == [want]


def test_riders_of_any_shape_and_type_come_along() -> None:
    score = torch.tensor([[0.1, 0.9, 0.5], [3.0, 3.0, 3.0]])
    flags = torch.tensor([[True, False, True], [False, True, True]])
    deep = torch.randn(2, 3, 4, 5).bfloat16()
    index, (got_flags, got_deep) = topk_gather(score, 2, flags, deep)
    assert index.tolist() == [[1, 2], [0, 1]]
    assert got_flags.tolist() == [[False, True], [False, True]]
    assert torch.equal(got_deep, torch.stack([deep[0, 1:], deep[1, :2]]))


def test_topk_of_nothing_and_everything() -> None:
    score = torch.full((2, 4), math.nan)
    assert topk_indices(score, 0).shape == (2, 0)
    assert topk_indices(score, 4).tolist() == [[0, 1, 2, 3]] * 2


def test_compaction_refuses_what_does_not_fit() -> None:
    x = torch.randn(1, 3, 2)
    with pytest.raises(ValueError, match="slot must be"):
        merge_compact(x, torch.zeros(1, 2).long(), torch.ones(1, 3), 1)
    with pytest.raises(ValueError, match="weight must be"):
        merge_compact(x, torch.zeros(1, 3).long(), torch.ones(3), 1)
    with pytest.raises(ValueError, match="length"):
        sum_compact(torch.ones(1, 3), torch.zeros(1, 3).long(), -1)
    with pytest.raises(ValueError, match=r"k must be in 0\.\.3"):
        topk_indices(torch.ones(1, 3), 4)
    with pytest.raises(ValueError, match="rider 1"):
        topk_gather(torch.ones(1, 3), 1, x, x[:, :2])
