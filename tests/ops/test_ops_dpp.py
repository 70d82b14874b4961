import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import loops
from tokenprune.ops import dpp_select
from tokenprune.ops.dpp_select.reference import SPANNED


def by_determinants(kernel: Tensor, k: int) -> list[int]:
    """Of all tokens left, the first that makes the largest determinant; `kernel` `[N, N]`."""
    chosen: list[int] = []
    whole = 1.0
    for _ in range(k):
        left = [j for j in range(len(kernel)) if j not in chosen]
        gains = []
        for j in left:
            rows = [*chosen, j]
            gain = float(torch.linalg.det(kernel[rows][:, rows])) / whole
            gains.append(gain if gain > SPANNED * float(kernel[j, j]) else 0.0)
        if not any(gains):  # everything is spanned: by the diagonal
            left.sort(key=lambda j: (-float(kernel[j, j]), j))
            return chosen + left[: k - len(chosen)]
        pick = next(i for i, gain in enumerate(gains) if gain >= max(gains) * (1 - 1e-9))
        chosen.append(left[pick])
        whole *= gains[pick]
    return chosen


@pytest.mark.parametrize("ties", [False, True])
def test_picks_are_those_of_the_determinants(ties: bool) -> None:
    torch.manual_seed(0)
    for _ in range(100):
        tokens, width = torch.randint(1, 14, (2,)).tolist()
        k = int(torch.randint(tokens + 1, ()))
        x = torch.randn(2, tokens, width)
        x = x.sign() if ties else x * torch.rand(2, tokens, 1).add(0.1)
        kernel = x @ x.mT
        want = [by_determinants(one.double(), k) for one in kernel]
        assert dpp_select(kernel, k).tolist() == want


def test_picks_are_those_of_the_released_loop() -> None:
    torch.manual_seed(0)
    x = normalize(torch.randn(3, 200, 64), dim=-1) * torch.rand(3, 200, 1)
    kernel = x @ x.mT
    want = [loops.dpp_select(one.double(), 40) for one in kernel]
    assert dpp_select(kernel, 40).tolist() == want


def test_duplicates_wait_for_everything_else_and_then_go_by_length() -> None:
    x = torch.tensor([[[0.1, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.01], [2.0, 0.0]]])
    assert dpp_select(x @ x.mT, 5).tolist() == [[2, 3, 1, 4, 0]]


def test_rounding_does_not_tell_duplicates_apart() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        once = torch.randn(1, 23, 40).double()
        kernel = (once @ once.mT).float().repeat(1, 3, 3)
        assert dpp_select(kernel, 23).tolist() == dpp_select(kernel[:, :23, :23], 23).tolist()


def test_behind_the_rank_the_longest_of_the_others_follow() -> None:
    for seed in range(8):
        torch.manual_seed(seed)
        unit = torch.nn.functional.normalize(torch.randn(1, 144, 64), dim=-1)
        length = torch.rand(1, 144)
        kernel = length[:, :, None] * (unit @ unit.mT) * length[:, None]
        picks = dpp_select(kernel, 80)[0].tolist()
        diagonal = kernel[0].diagonal()
        rest = [token for token in range(144) if token not in picks[:64]]
        assert picks[64:] == sorted(rest, key=lambda token: -float(diagonal[token]))[:16]


def test_tokens_without_a_number_come_last_and_once() -> None:
    x = torch.randn(1, 6, 4)
    kernel = x @ x.mT
    kernel[:, 2], kernel[:, :, 2] = torch.nan, torch.nan
    picks = dpp_select(kernel, 6)[0].tolist()
    assert picks[5] == 2
    assert sorted(picks) == list(range(6))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k must be in 0\.\.4, not -1"):
        dpp_select(torch.eye(4)[None], -1)
    with pytest.raises(ValueError, match=r"kernel must be \[B, N, N\], not \(4, 4\)"):
        dpp_select(torch.eye(4), 2)
