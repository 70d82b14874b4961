import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import loops
from tokenprune.ops import max_min_select


def distances(x: Tensor) -> Tensor:
    unit = normalize(x.float(), dim=-1)
    return 1 - unit @ unit.mT


@pytest.mark.parametrize("ties", [False, True])
def test_picks_are_those_of_the_loop(ties: bool) -> None:
    torch.manual_seed(0)
    for _ in range(100):
        tokens = int(torch.randint(1, 40, ()))
        k = int(torch.randint(tokens + 1, ()))
        pairs = torch.rand(2, tokens, tokens)
        distance = (pairs * 4).round() if ties else pairs
        want = [loops.max_min_select(one, k) for one in distance]
        assert max_min_select(distance, k).tolist() == want


def test_gains_stand_with_the_candidate() -> None:
    torch.manual_seed(0)
    distance, gain = torch.rand(1, 15, 15), torch.rand(1, 15)
    want = loops.max_min_select(distance[0] * gain[0], 9)
    assert max_min_select(distance, 9, gain=gain).tolist() == [want]


@pytest.mark.parametrize("tokens", [3, 128, 200])
def test_the_diagonal_is_not_read(tokens: int) -> None:
    distance = torch.rand(2, tokens, tokens)
    picks = max_min_select(distance, tokens // 2)
    for value in (0.0, 9.0, torch.nan):
        distance.diagonal(dim1=1, dim2=2).fill_(value)
        assert torch.equal(max_min_select(distance, tokens // 2), picks)


def test_fewer_picks_are_the_first_of_more_and_all_are_all() -> None:
    distance = distances(torch.randn(3, 20, 8))
    every = max_min_select(distance, 20)
    assert torch.equal(max_min_select(distance, 7), every[:, :7])
    assert torch.equal(every.sort(1).values, torch.arange(20).expand(3, 20))


def test_equal_and_zero_tokens_are_picked_by_index() -> None:
    for x in (torch.ones(1, 6, 4), torch.zeros(1, 6, 4)):
        assert max_min_select(distances(x), 4).tolist() == [[0, 1, 2, 3]]
    one_zero = torch.eye(4).index_fill(0, torch.tensor([2]), 0.0)
    assert max_min_select(distances(one_zero[None]), 4).tolist() == [[0, 1, 2, 3]]


def test_tokens_without_a_distance_come_last_and_once() -> None:
    distance = distances(torch.randn(1, 6, 4))
    distance[:, 2], distance[:, :, 2] = torch.nan, torch.nan
    distance[:, 4], distance[:, :, 4] = -torch.inf, -torch.inf
    picks = max_min_select(distance, 6)[0].tolist()
    assert picks[4:] == [2, 4]
    assert sorted(picks) == list(range(6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_compared_in_float32(dtype: torch.dtype) -> None:
    distance = torch.rand(2, 30, 30).to(dtype)
    assert torch.equal(max_min_select(distance, 12), max_min_select(distance.float(), 12))


def test_a_batch_gives_what_its_samples_give_and_no_gradient() -> None:
    distance = torch.rand(4, 33, 33, requires_grad=True)
    together = max_min_select(distance, 9)
    assert not together.requires_grad
    for b in range(4):
        assert torch.equal(max_min_select(distance[b : b + 1], 9), together[b : b + 1])


def test_what_does_not_fit_is_refused() -> None:
    distance = torch.rand(1, 4, 4)
    with pytest.raises(ValueError, match=r"k must be in 0\.\.4, not 5"):
        max_min_select(distance, 5)
    with pytest.raises(ValueError, match=r"distance must be \[B, N, N\]"):
        max_min_select(distance[:, :3], 2)
    with pytest.raises(ValueError, match="gain must be"):
        max_min_select(distance, 2, gain=torch.ones(4))
