"""The kernels of match_pairs against the reference, in a process of their own, as triton_cases.py.

Pairs must be equal: scores of random tokens are far apart, and ties are between tokens whose
cosines are exact in either implementation.
"""

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from tests.ops.triton_cases import (
    DEVICE,
    INF,
    NAN,
    _poison,
    both,
    close,
    crossing,
    small_programs,
)
from tokenprune import ops
from tokenprune.ops import Diversity, cosines
from tokenprune.ops.keys_triton import NONE, PREFERRED, key_of, place_of, score_of
from tokenprune.ops.match_pairs import gram_triton, plain_triton
from tokenprune.ops.match_pairs import triton as match

__all__ = ["_poison"]  # for every case here, too

SEVERAL = [None, Diversity(1.5, 3, 0.8), Diversity(1.5, 3, None)]


def same(x: Tensor, remove: int, **how: object) -> tuple[Tensor, Tensor]:
    got, want = both(ops.match_pairs, x, remove, **how)
    close(got, want, 0)
    return got  # type: ignore[return-value]


def options(kind: str, batch: int, length: int) -> dict[str, Tensor | int]:
    if kind == "order":
        order = torch.stack([torch.randperm(length) for _ in range(batch)])
        return {"order": order, "candidates": max(2, length * 2 // 3)}
    return {"blocked": torch.rand(batch, length) < 0.4} if kind == "blocked" else {}


@pytest.mark.parametrize(("length", "width"), [(2, 3), (5, 7), (crossing(34, 11), 131)])
@pytest.mark.parametrize("kind", ["all", "order", "blocked"])
@pytest.mark.parametrize("diversity", SEVERAL)
def test_pairs(length: int, width: int, kind: str, diversity: Diversity | None) -> None:
    how = options(kind, 2, length)
    first = length % 2
    remove = (int(how.get("candidates", length)) + 1 - first) // 2
    x = torch.randn(2, length, width)
    same(x, remove, first=first, squash=width > 6, diversity=diversity, **how)
    same(x, remove // 2, diversity=diversity, **how)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("squash", [False, True])
def test_more_neighbours_than_others_and_nothing_to_remove(first: int, squash: bool) -> None:
    x = torch.randn(2, 6, 4)
    for tau in (1.0, None):
        same(x, 3, first=first, squash=squash, diversity=Diversity(2.0, 20, tau))
    assert same(x, 0)[0].shape == (2, 0)
    assert same(x[:0], 2)[1].shape == (0, 2)


def axes(batch: int, length: int) -> Tensor:
    """Multiples of a few axes, some negative, and zeros: all cosines are -1, 0 or 1."""
    x = torch.eye(3)[torch.randint(3, (batch, length))]
    return x * torch.randint(-1, 3, (batch, length, 1)).float() * 0.25


@pytest.mark.parametrize("kind", ["all", "order", "blocked"])
@pytest.mark.parametrize("diversity", SEVERAL)
def test_ties(kind: str, diversity: Diversity | None) -> None:
    length = crossing(26, 13)
    x = torch.cat([axes(1, length), torch.zeros(1, length, 3), torch.ones(1, length, 3)]).half()
    how = options(kind, 3, length)
    same(x, length // 3, squash=diversity is not None, diversity=diversity, **how)


def test_everything_is_blocked() -> None:
    x = torch.cat([torch.randn(1, 7, 3), axes(1, 7)])
    for diversity in SEVERAL:
        same(x, 3, blocked=torch.ones(2, 7, dtype=torch.bool), diversity=diversity)


@pytest.mark.parametrize("odd", [NAN, INF])
@pytest.mark.parametrize("diversity", SEVERAL)
def test_tokens_that_are_no_numbers(odd: float, diversity: Diversity | None) -> None:
    x = torch.randn(2, 13, 5)
    x[0, 7, 2], x[1, 4, 0], x[1, 11, 1], x[1, 12] = odd, odd, -odd, odd
    blocked = torch.rand(2, 13) < 0.3
    blocked[1, 4], blocked[1, 11] = False, True
    for how in ({}, {"blocked": blocked}, {"blocked": ~blocked, "first": 1}):
        same(x, 6, diversity=diversity, **how)


@pytest.mark.parametrize("diversity", SEVERAL)
def test_half_precision(diversity: Diversity | None) -> None:
    # the interpreter multiplies the bits of a bfloat16
    dtype = torch.float16 if DEVICE == "cpu" else torch.bfloat16
    same(torch.randn(1, 35, 150).to(dtype), 10, diversity=diversity)


@pytest.mark.parametrize("diversity", SEVERAL)
def test_views(diversity: Diversity | None) -> None:
    x = torch.randn(2, 7, 26)[..., ::2].mT
    order = torch.randperm(13).expand(2, 13)
    same(x, 4, order=order, candidates=9, diversity=diversity)
    same(x, 4, blocked=(torch.rand(13, 2) < 0.3).mT, diversity=diversity)


@pytest.mark.parametrize("programs", [1, 9, 999])
def test_programs_that_take_several_tiles_or_share_a_row(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_triton, "_PROGRAMS", programs)
    length = crossing(270, 197)
    x = torch.randn(2, length, 6)
    for how in ({}, options("blocked", 2, length)):
        same(x, length // 2 - 5, **how)


def test_ranks_among_more_than_a_program_takes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    small_programs(match, monkeypatch)
    length = crossing(2053, 77)
    same(axes(1, length), length // 2)


def test_samples_that_do_not_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("_SMALL", "_HELD"):
        monkeypatch.setattr(cosines, device, 200)
    x = torch.randn(3, 10, 4)
    for kind in ("order", "blocked"):
        for diversity in SEVERAL:
            same(x, 3, diversity=diversity, **options(kind, 3, 10))


@pytest.mark.parametrize("plenty", [0, 10**9])
@pytest.mark.parametrize("number", [1, 33, 64, crossing(150, 70)])
def test_gram(number: int, plenty: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_triton, "_PLENTY", plenty)
    length = crossing(150, 70)
    x = torch.randn(2, length, 9)
    order = torch.stack([torch.randperm(length) for _ in x])
    for rows, given in ((x, None), (x.gather(1, order[..., None].expand(-1, -1, 9)), order)):
        dot, size = gram_triton.gram(x, given, number)
        close(dot, rows[:, :number] @ rows.mT)
        close(size, torch.stack((rows.norm(dim=-1), torch.full((2, length), 0.5)), 1))


def test_few_tiles_have_sizes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(gram_triton, "launch", lambda name, own: asked.append(name) or own)
    for plenty in (0, 10**9):
        monkeypatch.setattr(gram_triton, "_PLENTY", plenty)
        gram_triton.gram(torch.randn(1, 9, 4), None, 9)
    assert asked == ["gram x4", "gram few x4"]


@triton.jit
def _keys_kernel(score_ptr, key_ptr, back_ptr, place_ptr, BLOCK: tl.constexpr):  # noqa: ANN001, ANN202
    place = tl.arange(0, BLOCK)
    key = key_of(tl.load(score_ptr + place), place)
    tl.store(key_ptr + place, key)
    tl.store(back_ptr + place, score_of(key))
    tl.store(place_ptr + place, place_of(key))


def test_keys_order_as_torch_sorts() -> None:
    score = torch.tensor(
        [0.0, -0.0, NAN, -NAN, INF, -INF, 1.5, -1.5, 1e-42, -1e-42, 1.5, NAN, 3e38, -3e38, 1.0, 0.0]
    )
    key, back, place = torch.empty(16).long(), torch.empty(16), torch.empty(16).long()
    _keys_kernel[(1,)](score, key, back, place, BLOCK=16)
    assert torch.equal(place, torch.arange(16))
    torch.testing.assert_close(back, score, rtol=0, atol=0, equal_nan=True)
    # on a CPU, as a GPU sorts NaN by their signs
    want = torch.sort(score.cpu(), descending=True, stable=True).indices
    assert torch.equal(key.argsort(descending=True).cpu(), want)
    assert NONE.value < key.min()
    assert key.max() < PREFERRED.value
