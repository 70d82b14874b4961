import pytest
import torch

from benchmarks import loops
from tokenprune.ops import coverage_select
from tokenprune.ops.coverage_select import reference
from tokenprune.ops.coverage_select.reference import scores


@pytest.mark.parametrize("block", [reference._BLOCK, 700])
@pytest.mark.parametrize("ties", [False, True])
def test_picks_are_those_of_the_loop(
    ties: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_BLOCK", block)
    torch.manual_seed(0)
    for _ in range(100):
        targets, tokens = torch.randint(1, 90, (2,)).tolist()
        k = int(torch.randint(tokens + 1, ()))
        pairs = torch.rand(2, targets, tokens) - 0.2
        cover = (pairs * 4).round() if ties else pairs
        want = [loops.coverage_select(one.double(), k) for one in cover]
        assert coverage_select(cover, k).tolist() == want


@pytest.mark.parametrize("ties", [False, True])
def test_gains_of_any_sign_stand_with_the_candidate(ties: bool) -> None:
    torch.manual_seed(0)
    for _ in range(40):
        cover, gain = torch.rand(9, 50), torch.randn(50)
        if ties:
            cover, gain = (cover * 4).round(), (gain * 2).round()
        covered, chosen = torch.zeros(9, dtype=torch.float64), []
        for _ in range(50):
            sums = (cover - covered[:, None]).clamp(min=0).sum(0)
            left = [j for j in range(50) if j not in chosen]
            chosen.append(max(left, key=lambda j: (float(sums[j]) * float(gain[j]), -j)))
            covered = torch.maximum(covered, cover[:, chosen[-1]])
        assert coverage_select(cover[None], 50, gain=gain[None])[0].tolist() == chosen


@pytest.mark.parametrize("targets", [1, 7, 16, 100, 577, 2880])
def test_a_sum_does_not_depend_on_which_others_are_taken(targets: int) -> None:
    """What makes lazy greedy exact: a bound can't be a rounding error below its score."""
    torch.manual_seed(0)
    rows, covered, gain = torch.rand(150, targets), torch.rand(targets), torch.rand(150)
    every = scores(rows, covered, gain)
    for some in (torch.randperm(150)[:32], torch.arange(2), torch.arange(30, 149, 3)):
        assert torch.equal(scores(rows[some], covered, gain[some]), every[some])


def test_many_equal_bounds_do_not_hide_the_first() -> None:
    cover = torch.eye(300)[None]
    assert coverage_select(cover, 200).tolist() == [list(range(200))]


def test_without_targets_tokens_are_picked_by_index() -> None:
    assert coverage_select(torch.ones(1, 0, 6), 4).tolist() == [[0, 1, 2, 3]]


def test_tokens_without_a_number_come_last_and_once() -> None:
    cover = torch.rand(1, 6, 6)
    cover[:, 3, 2] = torch.nan
    for gain in (None, torch.full((1, 6), -1.0)):
        picks = coverage_select(cover, 6, gain=gain)[0].tolist()
        assert picks[5] == 2
        assert sorted(picks) == list(range(6))


def test_what_does_not_fit_is_refused() -> None:
    cover = torch.rand(1, 3, 4)
    with pytest.raises(ValueError, match=r"k must be in 0\.\.4, not 5"):
        coverage_select(cover, 5)
    with pytest.raises(ValueError, match=r"cover must be \[B, M, N\]"):
        coverage_select(cover[0], 2)
    with pytest.raises(ValueError, match=r"gain must be \[1, 4\]"):
        coverage_select(cover, 2, gain=torch.ones(1, 3))
