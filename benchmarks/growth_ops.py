"""Selection operations on one picture of more and more tokens, and how each has to grow."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from benchmarks.timing import seconds
from tokenprune import ops
from tokenprune.ops.flops import count_flops

HEADS, HEAD = 8, 64
RATIO = 8
"""At a fixed ratio, one token of so many is picked."""
ENOUGH = 20
"""Times the least time after which no further call is made."""
ATTENTION = "attention of a block"
FURTHER, DOUBLE = "a further pick", "double"

Call = Callable[[], object]
Row = dict[str, Any]


@dataclass(frozen=True)
class Nature:
    """How an operation's work grows by its definition.

    Attributes:
        power: of the number of tokens.
        why: what takes that.
    """

    power: int
    why: str


_PAIRS = Nature(2, "cosines or distances of all pairs")


NATURES = {
    (ATTENTION, "-"): Nature(2, "the model's own, to compare with"),
    ("cosines", "-"): _PAIRS,
    ("attention_received", "-"): Nature(2, "logits of all pairs"),
    ("attention_rows", "-"): Nature(1, "logits of a fixed number of rows"),
    ("knn_density", "-"): _PAIRS,
    ("merge_step", "-"): Nature(1, "every row once"),
    ("cluster_dpc", "count"): _PAIRS,
    ("cluster_dpc", "ratio"): _PAIRS,
    ("match_pairs", "count"): _PAIRS,
    ("match_pairs", "ratio"): _PAIRS,
    ("topk_gather", "count"): Nature(1, "a sort"),
    ("topk_gather", "ratio"): Nature(1, "a sort"),
    ("max_min_select", "count"): Nature(2, "the first pick reads all pairs"),
    ("max_min_select", "ratio"): Nature(2, "a row of pairs a pick"),
    ("max_min_select", FURTHER): Nature(1, "a row of pairs"),
    ("dpp_select", "count"): Nature(1, "products with the picks so far"),
    ("dpp_select", "ratio"): Nature(3, "products with the picks so far"),
    ("dpp_select", FURTHER): Nature(1, "products with the picks so far"),
    ("coverage_select", "count"): Nature(2, "what each token covers of all others"),
    ("coverage_select", "ratio"): Nature(3, "the same at each pick, lazily of few tokens"),
    ("coverage_select", FURTHER): Nature(2, "what tokens that could win cover of all others"),
}
"""By operation and by what sets the number of picks."""


def cases(tokens: int, picks: int) -> Iterator[tuple[str, str, int, Call]]:
    """Every operation: its name, what sets its picks, how many, and a call on `[1, N, 512]`.

    Matrices of pairs that an operation is given are not part of its time; making one is a case
    of its own (`cosines`). The features lie around `tokens // 16` points.
    """
    torch.manual_seed(0)
    width = HEADS * HEAD
    middle = torch.randn(tokens // 16 + 1, width)
    x = (middle[torch.randint(len(middle), (tokens,))] + torch.randn(tokens, width))[None]
    query, key = torch.randn(2, 1, HEADS, tokens, HEAD)
    score = torch.rand(1, tokens)
    yield ATTENTION, "-", 0, lambda: scaled_dot_product_attention(query, key, key)
    yield "attention_received", "-", 0, lambda: ops.attention_received(query, key)
    yield "attention_rows", "-", 0, lambda: ops.attention_rows(query[:, :, :16], key)
    yield "knn_density", "-", 0, lambda: ops.knn_density(x, neighbours=8, tau=1.0)
    yield "merge_step", "-", 0, _merge(x, tokens // 8)
    unit = normalize(x, dim=-1)
    yield "cosines", "-", 0, lambda: unit @ unit.mT
    cosine = unit @ unit.mT
    distance, kernel = 1 - cosine, score[..., None] * cosine * score[:, None]
    for sets, k in (("count", picks), (DOUBLE, 2 * picks), ("ratio", tokens // RATIO)):
        yield "max_min_select", sets, k, partial(ops.max_min_select, distance, k)
        yield "dpp_select", sets, k, partial(ops.dpp_select, kernel, k)
        yield "coverage_select", sets, k, partial(ops.coverage_select, cosine, k)
        if sets != DOUBLE:
            yield "cluster_dpc", sets, k, partial(ops.cluster_dpc, x, k, neighbours=7)
            yield "match_pairs", sets, k, partial(ops.match_pairs, x, k)
            yield "topk_gather", sets, k, partial(ops.topk_gather, score, k, x)


def _merge(x: Tensor, remove: int) -> Call:
    count = x.shape[1]
    anchor, slot = ops.merge_slots(*ops.match_pairs(x, remove), count)
    size, index = torch.ones(1, count), torch.arange(count)[None]
    return lambda: ops.merge_step(x, slot, anchor, size, index)


def rows_of(sizes: Sequence[int], picks: int, rounds: int, least: float) -> list[Row]:
    """A row for every operation and number of tokens, operation by operation.

    Args:
        sizes: numbers of tokens, ascending; the least has room for twice `picks`.
        picks: of a fixed number.
        rounds: least number of timed calls.
        least: seconds for which calls are timed at least.
    """
    rows: list[Row] = []
    for tokens in sizes:
        once: dict[str, tuple[Call, int]] = {}
        for name, sets, k, call in cases(tokens, picks):
            with count_flops() as counter:
                call()
            flops: float = counter.total
            timed = partial(_seconds, call)
            if sets == "count":
                once[name] = call, counter.total
            if sets == DOUBLE:
                first, before = once[name]
                timed, flops = partial(_further, first, call, picks), (flops - before) / picks
                sets, k = FURTHER, 1
            row = {"op": name, "picks_by": sets, "tokens": tokens, "picks": k}
            rows.append(row | {"seconds": _median(timed, rounds, least), "flops": flops})
    return sorted(rows, key=lambda row: (row["op"], row["picks_by"]))


def _seconds(call: Call) -> float:
    return seconds(call, torch.device("cpu"))


def _further(once: Call, twice: Call, picks: int) -> float:
    """Seconds of a further pick, from calls of so many and of twice as many, made in turn."""
    before = _seconds(once)
    return (_seconds(twice) - before) / picks


def _median(timed: Callable[[], float], rounds: int, least: float) -> float:
    """Median seconds; what takes long is timed once more than its first time."""
    found = list[float]()
    start = perf_counter()
    while len(found) < rounds or perf_counter() - start < least:
        found.append(timed())
        if perf_counter() - start > ENOUGH * least:
            break
    return statistics.median(found)
