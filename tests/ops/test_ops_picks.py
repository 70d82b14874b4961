"""What holds for all greedy picks: their order, types, batches and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tokenprune.ops import coverage_select, dpp_select, max_min_select

Op = Callable[[Tensor, int], Tensor]
Pick = tuple[Op, Callable[[Tensor], Tensor]]


def distances(x: Tensor) -> Tensor:
    unit = normalize(x.float(), dim=-1)
    return 1 - unit @ unit.mT


def kernels(x: Tensor) -> Tensor:
    return x @ x.mT


def cover(x: Tensor) -> Tensor:
    """What tokens cover of two targets more than there are tokens."""
    first, second = x[..., :1].abs(), x[..., 1:2].abs()
    return torch.cat((kernels(x), first.mT, second.mT), dim=1)


#: The op, and what it picks from, made of features `[B, N, D]`.
PICKS: dict[str, Pick] = {
    "max_min": (max_min_select, distances),
    "dpp": (dpp_select, kernels),
    "coverage": (coverage_select, cover),
}


@pytest.fixture(params=PICKS)
def pick(request: pytest.FixtureRequest) -> Pick:
    return PICKS[request.param]


def test_fewer_picks_are_the_first_of_more_and_all_are_all(pick: Pick) -> None:
    op, made = pick
    given = made(torch.randn(3, 70, 8))
    every = op(given, 70)
    assert torch.equal(op(given, 7), every[:, :7])
    assert torch.equal(every.sort(1).values, torch.arange(70).expand(3, 70))


def test_equal_and_zero_tokens_are_picked_by_index(pick: Pick) -> None:
    op, made = pick
    for x in (torch.ones(1, 6, 4), torch.zeros(1, 6, 4)):
        assert op(made(x), 4).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_read_as_float32(pick: Pick, dtype: torch.dtype) -> None:
    op, made = pick
    given = made(torch.randn(2, 30, 16)).to(dtype)
    assert torch.equal(op(given, 12), op(given.float(), 12))


def test_a_batch_gives_what_its_samples_give_and_no_gradient(pick: Pick) -> None:
    op, made = pick
    given = made(torch.randn(4, 33, 16, requires_grad=True))
    together = op(given, 9)
    assert given.requires_grad
    assert not together.requires_grad
    for b in range(4):
        assert torch.equal(op(given[b : b + 1], 9), together[b : b + 1])
