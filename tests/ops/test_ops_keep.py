"""Dropping tokens, by `keep_slots` and `keep_step`, against loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from tokenprune.ops import keep_slots, keep_step


def kept(seed: int, batch: int, count: int) -> Tensor:
    """Random tokens that stay, equally many of each sample, ascending."""
    torch.manual_seed(seed)
    left = int(torch.randint(0, count + 1, ()))
    return torch.stack([torch.randperm(count)[:left].sort()[0] for _ in range(batch)])


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 9))
@settings(deadline=None, max_examples=30)
def test_slots_against_loops(seed: int, batch: int, count: int) -> None:
    index = kept(seed, batch, count)
    slot = keep_slots(index, count)
    for row, found in zip(index.tolist(), slot.tolist(), strict=True):
        assert found == [row.index(i) if i in row else -1 for i in range(count)]


@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2))
@settings(deadline=None, max_examples=30)
def test_step_against_loops(seed: int, batch: int, count: int, ahead: int) -> None:
    anchor = kept(seed, batch, count)
    hidden = torch.randn(ahead + count, batch, 5).transpose(0, 1)
    size = torch.randint(1, 9, (batch, ahead + count)).float()
    index, rider = torch.randint(0, 99, (batch, count)), torch.rand(batch, count, 2) < 0.5
    got = keep_step(hidden, anchor, size, index, riders=[rider])
    for b in range(batch):
        rows = [*range(ahead), *(ahead + i for i in anchor[b].tolist())]
        assert got.hidden[b].tolist() == [hidden[b, row].tolist() for row in rows]
        assert got.size[b].tolist() == [float(size[b, row]) for row in rows]
        assert got.place[b].tolist() == [int(index[b, i]) for i in anchor[b].tolist()]
        assert got.riders[0][b].tolist() == [rider[b, i].tolist() for i in anchor[b].tolist()]


def test_step_is_differentiable() -> None:
    anchor, size = torch.tensor([[0, 3], [1, 2]]), torch.ones(2, 5)
    hidden = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    rider = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    index = torch.arange(4).expand(2, 4)

    def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        left = keep_step(x, anchor, size, index, riders=[y])
        return left.hidden, left.riders[0]

    assert gradcheck(both, (hidden, rider), rtol=1e-4)


def test_what_does_not_fit_is_refused() -> None:
    index, size, hidden = torch.arange(3)[None], torch.ones(1, 4), torch.ones(1, 4, 2)
    anchor = torch.tensor([[0, 2]])
    with pytest.raises(ValueError, match="can't be kept"):
        keep_slots(anchor, 1)
    with pytest.raises(ValueError, match="of 1 samples"):
        keep_step(hidden.expand(2, 4, 2), anchor, size, index)
    with pytest.raises(ValueError, match="of 1 samples"):
        keep_step(hidden, anchor.expand(2, 2), size, index)
    with pytest.raises(ValueError, match="at least 3 tokens"):
        keep_step(hidden[:, :2], anchor, size, index)
    with pytest.raises(ValueError, match="size must be"):
        keep_step(hidden, anchor, size[:, :2], index)
    with pytest.raises(ValueError, match="rider 0"):
        keep_step(hidden, anchor, size, index, riders=[size])
