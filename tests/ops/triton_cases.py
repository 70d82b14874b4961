"""Triton kernels against the reference, in a process of their own (see test_ops_triton.py).

Not named test_*.py: the interpreter must be switched on before triton is first imported. The
environment names the device.
"""

import os
from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import deterministic
from triton.runtime import interpreter

from tokenprune import ops
from tokenprune.ops.best_last import triton as best_last
from tokenprune.ops.dispatch import PLAIN
from tokenprune.ops.launching import padded
from tokenprune.ops.received_from_lse import triton as received_from_lse

INF, NAN = float("inf"), float("nan")
DEVICE = os.environ.get("TRITON_CASES_DEVICE", "cpu")


def hasten_interpreter() -> None:
    """Let the interpreter of kernels do once what it does at every launch: half of its time.

    It puts functions of its own into Triton's language, for which it lists all members, at every
    call of a function of a kernel too; and numpy's types are looked up among all types, one by one.
    A Triton that has no such functions goes on as it does.
    """
    patch: Callable[..., object] | None = getattr(interpreter, "_patch_lang", None)
    patched = set()

    def stay_patched(function: Callable[..., object]) -> object:
        if patch and function.__module__ not in patched:
            patched.add(function.__module__)
            patch(function)
        return SimpleNamespace(restore=lambda: None)

    if patch:
        interpreter._patch_lang = stay_patched
    type_of: Callable[..., object] | None = getattr(interpreter, "_get_np_dtype", None)
    if type_of:
        known = cache(type_of)  # pointers have no hash
        interpreter._get_np_dtype = lambda kind: (type_of if kind.scalar.is_ptr() else known)(
            kind.scalar
        )


if DEVICE == "cpu":
    hasten_interpreter()


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """Fills every torch.empty with NaN, so that an element no kernel wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    with torch.device(DEVICE):
        yield


def crossing(large: int, least: int) -> int:
    """`large` on a GPU, else the least that crosses a border of every kind of block.

    Interpreted time goes with the number of programs.
    """
    return least if DEVICE == "cpu" else large


def fewer(others: list[Any], first: list[Any]) -> list[Any]:
    """What is tried: all on a GPU, and the first of them where it is interpreted."""
    return first if DEVICE == "cpu" else first + others


def small_programs(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted programs of a module take 32 elements at a time, at most."""
    monkeypatch.setattr(
        module, "padded", lambda count, least, most: padded(count, least, crossing(most, 32))
    )


def both(op: object, *args: object, **kwargs: object) -> tuple[object, object]:
    with ops.use_backend("reference"):
        want = op(*args, **kwargs)  # type: ignore[operator]
    with ops.use_backend("triton"):
        got = op(*args, **kwargs)  # type: ignore[operator]
    return got, want


def close(got: object, want: object, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_poison_and_kernels_are_on() -> None:
    assert torch.empty(7).isnan().all()
    plain = "reference" if DEVICE == "cpu" else "triton"
    assert ops.choose("knn_density", torch.ones(1)).backend == plain
    with ops.use_backend("triton"):
        assert ops.choose("knn_density", torch.ones(1)).backend == "triton"
        assert {c.backend for c in ops.explain(DEVICE) if c.op not in PLAIN} == {"triton"}


@pytest.mark.parametrize(
    ("heads", "length", "width", "skip"),
    [(1, 1, 1, 0), (2, 5, 3, 1), (3, 65, 17, 0), (2, 77, 24, 5), (1, crossing(130, 66), 33, 65)],
)
@pytest.mark.parametrize("biased", [False, True])
def test_attention_received(heads: int, length: int, width: int, skip: int, biased: bool) -> None:
    query, key = torch.randn(2, 2, heads, length, width).unbind()
    bias = torch.rand(2, length).mul(4).log() if biased else None
    got, want = both(ops.attention_margins, query, key, bias=bias, skip=skip)
    close(got, want)


def test_attention_received_of_views_groups_and_hidden_keys() -> None:
    query = torch.randn(2, 37, 4, 8).transpose(1, 2)
    key = torch.randn(2, 37, 2, 16)[..., ::2].transpose(1, 2)
    bias = torch.zeros(2, 37)
    bias[0, 3:], bias[1] = -INF, -INF
    got, want = both(ops.attention_margins, query, key, bias=bias, scale=0.3, skip=2)
    close(got, want)
    assert all(torch.isfinite(mean).all() for mean in got)  # type: ignore[attr-defined]
    close(*both(ops.attention_received, query, key, bias=bias, scale=0.3, skip=2))


def test_attention_received_in_half_precision() -> None:
    query, key = torch.randn(2, 1, 2, 41, 16).to(torch.float16).unbind()
    close(*both(ops.attention_margins, query, key, skip=1), 1e-3)


@pytest.mark.parametrize(
    ("heads", "length", "width", "skip"),
    [(1, 1, 1, 0), (2, 5, 3, 1), (3, 65, 17, 0), (2, 77, 24, 5), (1, crossing(130, 66), 33, 65)],
)
@pytest.mark.parametrize("biased", [False, True])
def test_received_from_lse(heads: int, length: int, width: int, skip: int, biased: bool) -> None:
    query = torch.randn(2, length, heads, width).transpose(1, 2)
    key = torch.randn(2, heads, length, 2 * width)[..., ::2]
    bias = torch.rand(2, length).mul(4).log() if biased else None
    if bias is not None and length > 3:
        bias[0, 2] = -INF
    logits = query @ key.mT * width**-0.5
    lse = (logits if bias is None else logits + bias[:, None, None]).logsumexp(-1)
    got, want = both(ops.margins_from_lse, query, key, lse, bias=bias, skip=skip)
    close(got, want)
    close(got, ops.attention_margins(query, key, bias=bias, skip=skip))
    close(*both(ops.received_from_lse, query, key, lse, bias=bias, skip=skip))


@pytest.mark.parametrize("programs", [1, 12, 99])
def test_programs_that_share_a_column_give_an_image_the_same_in_every_batch(
    programs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(received_from_lse, "_PROGRAMS", programs)
    length = crossing(290, 131)
    query, key = torch.randn(2, 3, 2, length, 8).unbind()
    bias, lse = torch.randn(3, length), (query @ key.mT * 8**-0.5).logsumexp(-1)
    bias[1, 7] = -INF
    got, want = both(ops.received_from_lse, query, key, lse, bias=bias, skip=3)
    close(got, want)
    with ops.use_backend("triton"):
        alone = [
            ops.received_from_lse(*(each[at : at + 1] for each in (query, key, lse)), skip=3)
            for at in range(3)
        ]
        assert torch.equal(torch.cat(alone), ops.received_from_lse(query, key, lse, skip=3))


def test_received_from_the_logarithms_of_a_kernel() -> None:
    half = torch.randn(3, 2, 2, 41, 16).to(torch.float16)
    bias = torch.rand(2, 41).mul(4).log()
    close(*both(ops.attend_margins, *half, bias=bias, skip=1), 1e-3)


def terms(rows: int, cols: int) -> dict[str, Tensor]:
    return {
        "gain_a": torch.rand(2, rows), "gain_b": torch.rand(2, cols),
        "bias_a": torch.randn(2, rows), "bias_b": torch.randn(2, cols),
        "block_a": torch.rand(2, rows) < 0.3, "block_b": torch.rand(2, cols) < 0.3,
    }  # fmt: skip


@pytest.mark.parametrize(("rows", "cols", "width"), [(1, 1, 1), (33, 65, 7), (5, 130, 70)])
@pytest.mark.parametrize("squash", [False, True])
def test_bipartite_match(rows: int, cols: int, width: int, squash: bool) -> None:
    a, b = torch.randn(2, rows, width), torch.randn(2, cols, width)
    for given in ({}, terms(rows, cols)):
        got, want = both(ops.bipartite_match, a, b, squash=squash, **given)
        close(got, want)


def test_each_term_of_bipartite_match_alone() -> None:
    a, b = torch.randn(2, 9, 5), torch.randn(2, 11, 5)
    for name, term in terms(9, 11).items():
        close(*both(ops.bipartite_match, a, b, **{name: term}))


def test_bipartite_match_of_ties_zeros_and_blocks() -> None:
    a = torch.zeros(1, 6, 4)
    a[:, 3:] = 1.0
    b = torch.ones(1, 150, 4)
    free = torch.zeros(1, 150, dtype=torch.bool)
    free[:, :70] = True
    for blocked in (free, torch.ones_like(free)):
        got, want = both(ops.bipartite_match, a, b, block_b=blocked)
        close(got, want)
    assert got[1].tolist() == [[0] * 6]


def test_bipartite_match_of_views() -> None:
    x = torch.randn(2, 39, 12)[..., ::2]
    close(*both(ops.bipartite_match, x[:, ::2], x[:, 1::2]))


@pytest.mark.parametrize(
    ("length", "width", "neighbours"), [(1, 3, 1), (2, 67, 9), (67, 3, 5), (77, 67, 9)]
)
@pytest.mark.parametrize("tau", [1.0, None])
def test_knn_density(length: int, width: int, neighbours: int, tau: float | None) -> None:
    x = torch.randn(2, length, width)
    close(*both(ops.knn_density, x, neighbours=neighbours, tau=tau))


def test_knn_density_of_duplicates_and_zeros() -> None:
    x = torch.randn(2, 41, 6)
    x[0, 5:20], x[1, ::3] = x[0, 5:6], 0.0
    for tau in (0.7, None):
        close(*both(ops.knn_density, x, neighbours=4, tau=tau))
        close(*both(ops.knn_density, torch.ones(1, 9, 3), neighbours=4, tau=tau), 1e-4)


@pytest.mark.parametrize(
    ("tokens", "width", "length"), [(1, 1, 1), (13, 5, 7), (67, 33, 40), (9, 1030, 4), (5, 3, 0)]
)
def test_merge_and_sum(tokens: int, width: int, length: int) -> None:
    x, weight = torch.randn(3, tokens, width), torch.rand(3, tokens)
    slot = torch.randint(-1, max(length, 1), (3, tokens))
    weight[0] = 0.0
    close(*both(ops.merge_compact, x, slot, weight, length))
    close(*both(ops.sum_compact, weight, slot, length))
    close(*both(ops.merge_compact, x.mT.contiguous().mT, slot, weight, length))


def test_merge_in_half_precision_and_tokens_alone() -> None:
    x = torch.randn(2, 17, 9).to(torch.float16)
    alone = torch.arange(17).flip(0).expand(2, 17)
    got, want = both(ops.merge_compact, x, alone, torch.full((2, 17), 3.0), 17)
    assert torch.equal(got, want)
    assert torch.equal(got, x.flip(1))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("tokens", "k"), [(1, 1), (37, 0), (37, 11), (crossing(601, 67), 30), (19, 19)]
)
def test_best_last(tokens: int, k: int, alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # a program that holds the sample needs no other kernel
    monkeypatch.setattr(best_last, "_rank_kernel" if alone else "_alone_kernel", None)
    # whatever the table says
    fixed = {"tokens": 1024 if alone else 0, "BLOCK_N": crossing(128, 32)}
    monkeypatch.setattr(
        best_last, "launch", lambda _, own: {name: fixed.get(name, own[name]) for name in own}
    )
    score = torch.randn(2, tokens).mul(2).round()
    for case in (score, score.bfloat16(), score.mT.contiguous().mT):
        close(*both(ops.best_last, case, k), 0)
    score[0, ::3], score[1, ::4] = NAN, -INF
    close(*both(ops.best_last, score, k), 0)


@pytest.mark.parametrize(
    ("tokens", "k"), [(1, 1), (37, 0), (37, 11), (37, 30), (601, 9), (crossing(67, 19),) * 2]
)
def test_topk_gather(tokens: int, k: int) -> None:
    score = torch.randn(2, tokens).mul(2).round()
    score[0, ::3], score[1, ::4] = NAN, -INF
    riders = (
        torch.randn(2, tokens, 5), torch.randint(9, (2, tokens)), torch.rand(2, tokens) < 0.5,
        torch.randn(2, tokens, 3, 2).to(torch.bfloat16), torch.randn(2, tokens, dtype=torch.cfloat),
        torch.randn(2, 4, tokens).mT,
    )  # fmt: skip
    got, want = both(ops.topk_gather, score, k, *riders)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def layouts(plain: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Matrices of tokens to try: a large one, which is there for its programs, in one form only."""
    large = max(plain.shape[1:]) > 60
    return (plain, *others)[: crossing(4, 1) if large else 4]


@pytest.mark.parametrize(("tokens", "k"), [(1, 1), (37, 0), (7, 7), (131, 3), (1030, 2)])
@pytest.mark.parametrize("gained", [False, True])
def test_max_min_select(tokens: int, k: int, gained: bool) -> None:
    gain = torch.rand(2, tokens) if gained else None
    distance = torch.rand(2, tokens, tokens)
    distance[:, -1] += 2  # so that a pick stands where a program looks last
    distance[:, :, -1] += 2
    for case in layouts(distance, (distance * 4).round(), distance.mT, distance.bfloat16()):
        close(*both(ops.max_min_select, case, k, gain=gain), 0)
    distance[0, tokens // 2], distance[1, :, tokens // 3] = NAN, -INF
    close(*both(ops.max_min_select, distance, k, gain=gain), 0)


@pytest.mark.parametrize(("tokens", "k"), [(1, 1), (37, 0), (7, 7), (131, 3), (1030, 2)])
def test_dpp_select(tokens: int, k: int) -> None:
    x = torch.randn(2, tokens, 150)
    x[:, -1] *= 2  # so that a pick stands where a program looks last
    kernel = x @ x.mT
    for case in layouts(kernel, kernel.mT, kernel[:, ::2, ::2], kernel.bfloat16()):
        close(*both(ops.dpp_select, case, min(k, case.shape[1])), 0)
    kernel[0, tokens // 2], kernel[0, :, tokens // 2] = NAN, NAN
    close(*both(ops.dpp_select, kernel, k), 0)


def test_dpp_select_of_duplicates_and_zeros() -> None:
    # one sample has more directions than the steps that a program adds up at once
    tokens = crossing(60, 40)
    x = torch.randint(-1, 2, (2, tokens, 64)).float()
    x[0, 5:9], x[1, ::3] = x[0, 5:6], 0.0
    close(*both(ops.dpp_select, x @ x.mT, tokens), 0)


@pytest.mark.parametrize(
    ("targets", "tokens", "k"),
    [
        (1, 1, 1), (0, 5, 3), (70, 37, 0), (7, 11, 3),
        (crossing(130, 67), 37, 2), (5, crossing(131, 67), 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("gained", [False, True])
def test_coverage_select(targets: int, tokens: int, k: int, gained: bool) -> None:
    gain = torch.randn(2, tokens) if gained else None
    cover = torch.rand(2, targets, tokens) - 0.2
    for case in layouts(cover, (cover * 4).round(), cover.mT.contiguous().mT, cover.bfloat16()):
        close(*both(ops.coverage_select, case, k, gain=gain), 0)
    if targets:
        cover[0, :, tokens // 2], cover[1, 0, tokens // 3] = -INF, NAN
        close(*both(ops.coverage_select, cover, k, gain=gain), 0)


def test_empty_batches() -> None:
    x = torch.randn(0, 5, 4)
    for op in (
        lambda: ops.attention_received(x[:, None], x[:, None]),
        lambda: ops.bipartite_match(x, x),
        lambda: ops.knn_density(x, neighbours=2, tau=1.0),
        lambda: ops.coverage_select(torch.ones(0, 5, 5), 2),
        lambda: ops.dpp_select(torch.ones(0, 5, 5), 2),
        lambda: ops.max_min_select(torch.ones(0, 5, 5), 2),
        lambda: ops.merge_compact(x, torch.zeros(0, 5).long(), torch.ones(0, 5), 3),
        lambda: ops.sum_compact(torch.ones(0, 5), torch.zeros(0, 5).long(), 3),
        lambda: ops.topk_gather(torch.ones(0, 5), 2, x),
    ):
        close(*both(op))
