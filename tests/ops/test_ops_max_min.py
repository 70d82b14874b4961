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


def test_gains_of_zero_and_below_repeat_no_token() -> None:
    gain = torch.tensor([[0.0, -1.0, torch.nan, 2.0, 0.0]])
    picks = max_min_select(torch.rand(1, 5, 5) + 0.1, 5, gain=gain)
    assert picks[0].tolist() == [3, 0, 4, 1, 2]


@pytest.mark.parametrize("tokens", [3, 128, 200])
def test_the_diagonal_is_not_read(tokens: int) -> None:
    distance = torch.rand(2, tokens, tokens)
    picks = max_min_select(distance, tokens // 2)
    for value in (0.0, 9.0, torch.nan):
        distance.diagonal(dim1=1, dim2=2).fill_(value)
        assert torch.equal(max_min_select(distance, tokens // 2), picks)


def test_a_zero_token_among_others_is_picked_by_index() -> None:
    one_zero = torch.eye(4).index_fill(0, torch.tensor([2]), 0.0)
    assert max_min_select(distances(one_zero[None]), 4).tolist() == [[0, 1, 2, 3]]


def test_tokens_without_a_distance_come_last_and_once() -> None:
    distance = distances(torch.randn(1, 6, 4))
    distance[:, 2], distance[:, :, 2] = torch.nan, torch.nan
    distance[:, 4], distance[:, :, 4] = -torch.inf, -torch.inf
    picks = max_min_select(distance, 6)[0].tolist()
    assert picks[4:] == [2, 4]
    assert sorted(picks) == list(range(6))


def test_what_does_not_fit_is_refused() -> None:
    distance = torch.rand(1, 4, 4)
    with pytest.raises(ValueError, match=r"k must be in 0\.\.4, not 5"):
        max_min_select(distance, 5)
    with pytest.raises(ValueError, match=r"distance must be \[B, N, N\]"):
        max_min_select(distance[:, :3], 2)
    with pytest.raises(ValueError, match="gain must be"):
        max_min_select(distance, 2, gain=torch.ones(4))
