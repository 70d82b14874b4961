import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from tokenprune.ops import merge_compact, merge_slots, merge_step, sum_compact, take


def merge(seed: int, batch: int, count: int) -> tuple[Tensor, Tensor]:
    """Random pairs of a merge: sources are no targets, targets may be shared."""
    torch.manual_seed(seed)
    removed = int(torch.randint(0, count // 2 + 1, ()))
    orders = torch.stack([torch.randperm(count) for _ in range(batch)])
    source, stays = orders[:, :removed], orders[:, removed:]
    pick = torch.randint(0, count - removed, (batch, removed))
    return source, stays.gather(1, pick)


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_slots_against_loops(seed: int, batch: int, count: int) -> None:
    source, target = merge(seed, batch, count)
    anchor, slot = merge_slots(source, target, count)
    for b in range(batch):
        into = dict(zip(source[b].tolist(), target[b].tolist(), strict=True))
        stays = [i for i in range(count) if i not in into]
        assert anchor[b].tolist() == stays
        assert slot[b].tolist() == [stays.index(into.get(i, i)) for i in range(count)]


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2), st.booleans())
@settings(deadline=None, max_examples=30)
def test_step_is_what_its_parts_are(
    seed: int, batch: int, count: int, ahead: int, weighed: bool
) -> None:
    anchor, slot = merge_slots(*merge(seed, batch, count), count)
    kept = anchor.shape[1]
    hidden = torch.randn(batch, ahead + count, 5)
    size = torch.ones(batch, ahead + count)
    size[:, ahead:] = torch.randint(1, 9, (batch, count))
    index, rider = torch.randint(0, 99, (batch, count)), torch.rand(batch, count, 2)
    weight = torch.randint(0, 3, (batch, count)).float() if weighed else None
    got = merge_step(hidden, slot, anchor, size, index, weight=weight, riders=[rider])
    mean = merge_compact(
        hidden[:, ahead:], slot, size[:, ahead:] if weight is None else weight, kept
    )
    torch.testing.assert_close(got.hidden[:, ahead:], mean)
    assert torch.equal(got.hidden[:, :ahead], hidden[:, :ahead])
    assert torch.equal(got.size[:, ahead:], sum_compact(size[:, ahead:], slot, kept))
    assert (got.size[:, :ahead] == 1).all()
    assert torch.equal(got.bias, got.size.log())
    half = merge_step(hidden.bfloat16(), slot, anchor, size, index, weight=weight)
    assert torch.equal(half.bias, got.size.log().bfloat16())
    assert torch.equal(got.place, take(index, anchor))
    assert torch.equal(got.riders[0], take(rider, anchor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tokens_alone_come_out_bit_identical(dtype: torch.dtype) -> None:
    source, target = torch.tensor([[3], [0]]), torch.tensor([[1], [1]])
    anchor, slot = merge_slots(source, target, 7)
    hidden, size = torch.randn(2, 8, 33).to(dtype) * 1e3, torch.full((2, 8), 3.0)
    got = merge_step(hidden, slot, anchor, size, torch.arange(7).expand(2, 7))
    assert got.hidden.dtype == dtype
    assert torch.equal(got.hidden[0, [0, 1, 3]], hidden[0, [0, 1, 3]])
    assert torch.equal(got.hidden[1, [0, 2, 3]], hidden[1, [0, 3, 4]])


def test_step_is_differentiable() -> None:
    anchor, slot = merge_slots(*merge(3, 2, 6), 6)
    size = torch.tensor([1.0, 2, 1, 3, 1, 1, 4]).expand(2, 7).contiguous()
    hidden = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    rider = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    index, weight = torch.arange(6).expand(2, 6), torch.rand(2, 6)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        got = merge_step(x, slot, anchor, size, index, riders=[y])
        weighed = merge_step(x, slot, anchor, size, index, weight=weight).hidden
        return got.hidden + weighed, got.riders[0]

    assert gradcheck(both, (hidden, rider), rtol=1e-4)


def test_step_and_slots_refuse_what_does_not_fit() -> None:
    source = torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="don't fit"):
        merge_slots(source, source[:, :1], 5)
    with pytest.raises(ValueError, match="can't merge"):
        merge_slots(source, source, 1)
    anchor, slot = merge_slots(torch.tensor([[1]]), torch.tensor([[0]]), 3)
    index, size, hidden = torch.arange(3)[None], torch.ones(1, 3), torch.ones(1, 3, 2)
    with pytest.raises(ValueError, match="size must be"):
        merge_step(hidden, slot, anchor, size[:, :2], index)
    with pytest.raises(ValueError, match="at least 3 tokens"):
        merge_step(hidden[:, :2], slot, anchor, size[:, :2], index)
    with pytest.raises(ValueError, match="rider 0"):
        merge_step(hidden, slot, anchor, size, index, riders=[size[:, :2]])
