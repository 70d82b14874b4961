"""The merge's kernels against the reference, in a process of their own, as triton_cases.py is."""

import pytest
import torch
from torch import Tensor

from tests.ops.triton_cases import _poison, both, close, crossing, fewer, small_programs
from tokenprune import ops
from tokenprune.ops.merge_step import triton as step

__all__ = ["_poison"]  # for every case here, too


def pairs(batch: int, tokens: int, removed: int) -> tuple[Tensor, Tensor]:
    """Random sources, and targets that several may share, as views with strides of their own."""
    orders = torch.stack([torch.randperm(tokens) for _ in range(batch)])
    pick = torch.randint(0, max(1, tokens - removed), (batch, removed))
    target = orders[:, removed:].gather(1, pick) if removed else pick
    return orders[:, :removed], target.mT.contiguous().mT


@pytest.mark.parametrize(
    ("batch", "tokens", "removed"),
    [
        (1, 1, 0),
        (2, 5, 2),
        (3, 37, 0),
        (2, 39, 38),
        (1, crossing(577, 141), crossing(288, 129)),
        (2, 131, 130),
        (1, crossing(1100, 165), 150),
    ],
)
def test_merge_slots(batch: int, tokens: int, removed: int) -> None:
    got, want = both(ops.merge_slots, *pairs(batch, tokens, removed), tokens)
    close(got, want, 0)


def test_merge_slots_of_pairs_that_a_match_found() -> None:
    close(*both(ops.merge_slots, *ops.match_pairs(torch.randn(3, 41, 5), 17, first=1), 41), 0)


def given(
    batch: int, tokens: int, removed: int, ahead: int, width: int, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    anchor, slot = ops.merge_slots(*pairs(batch, tokens, removed), tokens)
    hidden = torch.randn(batch, ahead + tokens, width).to(dtype)
    size = torch.ones(batch, ahead + tokens)
    size[:, ahead:] = torch.randint(1, 9, (batch, tokens))
    return hidden, slot, anchor, size, torch.arange(tokens).expand(batch, tokens)


def alone(slot: Tensor, kept: int) -> Tensor:
    """Which tokens have no other beside them, bool `[B, N]`."""
    return ops.sum_compact(torch.ones(slot.shape), slot, kept).gather(1, slot) == 1


@pytest.mark.parametrize(
    ("many", "weighed"), fewer([(False, True), (True, False)], [(False, False), (True, True)])
)
@pytest.mark.parametrize(
    ("batch", "tokens", "removed", "ahead", "width"),
    [
        (1, 1, 0, 0, 1), (2, 5, 2, 1, 3), (3, crossing(37, 11), 0, 0, 17), (2, 39, 38, 2, 33),
        (1, crossing(70, 23), 11, 5, 130),
    ],
)  # fmt: skip
def test_merge_step(
    batch: int, tokens: int, removed: int, ahead: int, width: int, weighed: bool, many: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(step, "_MANY", 0 if many else 4096)
    call = given(batch, tokens, removed, ahead, width, torch.float32)
    weight = torch.rand(batch, tokens) if weighed else None
    riders = [torch.rand(batch, tokens, 2), torch.rand(batch, tokens) < 0.5]
    got, want = both(ops.merge_step, *call, weight=weight, riders=riders)
    close(got.hidden, want.hidden)
    close(got.bias, want.bias)
    for one, other in zip(got[1:2] + got[3:], want[1:2] + want[3:], strict=True):
        close(one, other, 0)
    hidden, slot, anchor = call[:3]
    same = alone(slot, anchor.shape[1])
    assert torch.equal(got.hidden[:, :ahead], hidden[:, :ahead])
    back = got.hidden[:, ahead:].gather(1, slot[..., None].expand(-1, -1, width))
    assert torch.equal(back[same], hidden[:, ahead:][same])


@pytest.mark.parametrize("many", [False, True])
def test_merge_step_over_several_blocks(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "_MANY", 0 if many else 4096)
    small_programs(step, monkeypatch)
    tokens = crossing(1100, 71)
    got, want = both(ops.merge_step, *given(1, tokens, tokens - 7, 1, 3, torch.float32))
    close(got, want, 1e-4)
    close(*both(ops.merge_step, *given(1, 7, 3, 1, crossing(2100, 71), torch.float32)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merge_step_in_half_precision(dtype: torch.dtype) -> None:
    kept = crossing(24, 7)
    call = given(2, kept + 9, 9, 1, 19, dtype)
    got, want = both(ops.merge_step, *call)
    assert got.hidden.dtype == dtype
    close(got.hidden, want.hidden, 1e-2 if dtype == torch.bfloat16 else 1e-3)
    close(got.bias, want.bias, 1e-2 if dtype == torch.bfloat16 else 1e-3)
    same = alone(call[1], kept)
    back = got.hidden[:, 1:].gather(1, call[1][..., None].expand(-1, -1, 19))
    assert torch.equal(back[same], call[0][:, 1:][same])


def test_merge_step_of_views_of_any_type() -> None:
    hidden, slot, anchor, size, _ = given(2, 9, 4, 2, 8, torch.float32)
    index = torch.arange(18, dtype=torch.int32).view(9, 2).mT
    apart = hidden.mT.contiguous().mT[..., ::2]
    sizes = size.repeat_interleave(2, 1)[:, ::2]
    weight = torch.randint(0, 2, (9, 2), dtype=torch.bool).mT
    rider = torch.randn(2, 4, 9).mT
    for given_weight in (None, weight, weight.double(), size[:, 2:].half()):
        close(*both(
            ops.merge_step, apart, slot.mT.contiguous().mT, anchor, sizes, index,
            weight=given_weight, riders=[rider],
        ))  # fmt: skip


@pytest.mark.parametrize("ahead", [0, 1])
def test_merge_step_of_weights_that_are_zero_or_no_number(ahead: int) -> None:
    call = given(3, 9, 4, ahead, 5, torch.float32)
    weight = torch.rand(3, 9)
    weight[0], weight[1, ::2], weight[2, 3] = 0.0, 0.0, float("nan")
    got, want = both(ops.merge_step, *call, weight=weight)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert (got.hidden[0, ahead:] == 0).all()
    assert got.hidden[2].isnan().any()


def test_merge_step_of_states_that_are_no_numbers() -> None:
    call = given(2, 11, 4, 1, 5, torch.float32)
    call[0][0, 3], call[0][1, 0, 2], call[0][1, 7] = float("nan"), float("inf"), -float("inf")
    torch.testing.assert_close(*both(ops.merge_step, *call), equal_nan=True)


def test_gradients_are_those_of_the_reference() -> None:
    hidden, *rest = given(2, 9, 4, 1, 5, torch.float32)
    grads = []
    for backend in ops.Backend.__args__[1:]:
        x, rider = hidden.clone().requires_grad_(), torch.ones(2, 9, 3, requires_grad=True)
        with ops.use_backend(backend):
            got = ops.merge_step(x, *rest, riders=[rider])
        (got.hidden.square().sum() + got.riders[0].sum()).backward()
        grads.append((x.grad, rider.grad))
    close(*grads)


def test_empty_batches_and_rows_without_width() -> None:
    close(*both(ops.merge_slots, *pairs(2, 7, 3), 7), 0)
    none = torch.zeros(0, 3, dtype=torch.int64)
    close(*both(ops.merge_slots, none, none, 7), 0)
    slot, anchor, size = none.new_zeros(0, 7), none.new_zeros(0, 4), torch.ones(0, 8)
    close(*both(ops.merge_step, torch.ones(0, 8, 2), slot, anchor, size, slot))
    hidden, *rest = given(2, 7, 3, 1, 4, torch.float32)
    with ops.use_backend("triton"):
        got, want = (ops.merge_step(x, *rest) for x in (hidden[..., :0], hidden))
    close(got[1:], want[1:], 0)


def stays(batch: int, tokens: int, kept: int) -> Tensor:
    """Random tokens that stay, ascending, as a view with strides of its own."""
    orders = [torch.randperm(tokens)[:kept].sort()[0] for _ in range(batch)]
    return torch.stack(orders).mT.contiguous().mT


@pytest.mark.parametrize(
    ("batch", "tokens", "kept"),
    [
        (1, 1, 0),
        (1, 1, 1),
        (2, 5, 2),
        (3, 37, 37),
        (2, 39, 1),
        (1, crossing(577, 141), 129),
        (1, crossing(1100, 270), crossing(950, 257)),
    ],
)
def test_keep_slots(batch: int, tokens: int, kept: int) -> None:
    close(*both(ops.keep_slots, stays(batch, tokens, kept), tokens), 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "tokens", "kept", "ahead", "width"),
    [(1, 1, 0, 0, 1), (1, 3, 0, 2, 3), (2, 5, 2, 1, 3), (3, 37, 36, 0, 17), (1, 7, 4, 5, 2100)],
)
def test_keep_step(
    batch: int, tokens: int, kept: int, ahead: int, width: int, dtype: torch.dtype
) -> None:
    hidden = torch.randn(batch, ahead + tokens, width).to(dtype)
    size = torch.randint(1, 9, (batch, ahead + tokens)).float()
    riders = [torch.rand(batch, tokens, 2), torch.rand(batch, tokens) < 0.5]
    index = torch.randint(0, 99, (batch, tokens))
    step = (hidden, stays(batch, tokens, kept), size, index)
    close(*both(ops.keep_step, *step, riders=riders), 0)


def test_keep_step_of_views_of_any_type() -> None:
    hidden = torch.randn(2, 16, 23).mT[..., ::2]
    index = torch.arange(42, dtype=torch.int32).view(21, 2).mT
    size = torch.rand(2, 46)[:, ::2]
    step = (hidden, stays(2, 21, 9), size, index)
    close(*both(ops.keep_step, *step, riders=[torch.randn(2, 4, 21).mT]), 0)
