"""Time of each selection operation: the reference against Triton, at the sizes of two encoders.

    python -m benchmarks.ops --out benchmarks/records/ops.json
    python -m benchmarks.ops --loops --out benchmarks/records/ops-loops.json

Runs on the CUDA device if there is one, else on the CPU, where Triton has nothing to run on and its
column stays empty. Times are medians of `torch.utils.benchmark`. With `--loops`, the selections
that pick token by token are measured against plain loops (`benchmarks/loops.py`), on the CPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import Timer

from benchmarks import loops
from benchmarks.recording import finish
from tokenprune import ops
from tokenprune.lab.measure.environment import describe_environment

console = Console()


@dataclass(frozen=True)
class Site:
    """The tokens of one encoder block."""

    name: str
    tokens: int
    heads: int
    head_width: int

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return self.heads * self.head_width


SITES = (Site("clip-l14-336", 576, 16, 64), Site("siglip-so400m-384", 729, 16, 72))
BACKENDS: tuple[ops.Backend, ...] = ("reference", "triton")


def cases(
    site: Site, batch: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Callable[[], object]]:
    """One call of every operation; half of the tokens merge, a quarter is kept by score.

    The greedy selections pick an eighth.
    """
    torch.manual_seed(0)
    tokens, half = site.tokens, site.tokens // 2
    query, key = torch.randn(2, batch, site.heads, tokens, site.head_width).to(device, dtype)
    x = torch.randn(batch, tokens, site.width).to(device, dtype)
    ones = torch.ones(batch, tokens, device=device)
    score = torch.rand(batch, tokens, device=device)
    slot = torch.randint(0, half, (batch, tokens), device=device)
    a, b = x[:, ::2], x[:, 1::2]
    unit = torch.nn.functional.normalize(x.float(), dim=-1)
    kernel = unit @ unit.mT
    distance = 1 - kernel
    gain_a, gain_b = score[:, ::2], score[:, 1::2]
    pairs = ops.match_pairs(x, tokens // 8)
    stays = ops.merge_slots(*pairs, tokens)
    bias = score.add(1).log()
    asked, few = query[:1, :, :256], key[:1, :, :256]
    lse = (query @ key.mT * site.head_width**-0.5).float().logsumexp(-1)
    calls: dict[str, Callable[[], object]] = {
        "attend": lambda: ops.attend(query, key, key, bias=bias),
        "attend_short": lambda: ops.attend_short(asked, few, few, bias[:1, :256]),
        "attention_received": lambda: ops.attention_received(query, key),
        "attention_row": lambda: ops.attention_row(query, key),
        "attention_rows": lambda: ops.attention_rows(query[:, :, :16], key),
        "best_last": lambda: ops.best_last(score, tokens // 4),
        "bipartite_match": lambda: ops.bipartite_match(
            a, b, gain_a=gain_a, gain_b=gain_b, block_a=gain_a > 0.75, squash=True
        ),
        "cluster_dpc": lambda: ops.cluster_dpc(x, tokens // 8, neighbours=7),
        "coverage_select": lambda: ops.coverage_select(kernel, tokens // 8),
        "dpp_select": lambda: ops.dpp_select(kernel, tokens // 8),
        "keep_slots": lambda: ops.keep_slots(stays[0], tokens),
        "keep_step": lambda: ops.keep_step(x, stays[0], ones, slot),
        "knn_density": lambda: ops.knn_density(x, neighbours=8, tau=1.0),
        "match_pairs": lambda: ops.match_pairs(
            x, tokens // 8, diversity=ops.Diversity(1.0, 8, 1.0)
        ),
        "max_min_select": lambda: ops.max_min_select(distance, tokens // 8),
        "merge_compact": lambda: ops.merge_compact(x, slot, ones, half),
        "merge_slots": lambda: ops.merge_slots(*pairs, tokens),
        "merge_step": lambda: ops.merge_step(x, stays[1], stays[0], ones, slot),
        "received_from_lse": lambda: ops.received_from_lse(query, key, lse),
        "sum_compact": lambda: ops.sum_compact(ones, slot, half),
        "topk_gather": lambda: ops.topk_gather(score, tokens // 4, x, ones, slot),
    }
    if device.type != "cpu":
        del calls["attend_short"]  # nobody asks for it elsewhere
    return calls


def median_seconds(call: Callable[[], object], least: float) -> float:
    """Median over at least `least` seconds of measuring, after a first call that compiles."""
    call()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=least).median)


def measure(
    sites: Sequence[Site],
    batches: Sequence[int],
    device: torch.device,
    dtype: torch.dtype,
    least: float,
) -> list[dict[str, Any]]:
    """One row for every site, batch size and operation."""
    rows = []
    for site in sites:
        for batch in batches:
            for name, call in cases(site, batch, device, dtype).items():
                row: dict[str, Any] = {"site": site.name, "tokens": site.tokens, "batch": batch}
                row |= {"op": name, "device": device.type, "dtype": str(dtype).split(".")[-1]}
                rows.append(row | _seconds(name, call, device, least))
    return rows


def _seconds(
    name: str, call: Callable[[], object], device: torch.device, least: float
) -> dict[str, float | None]:
    runs = {choice.op: choice.backend == "triton" for choice in ops.explain(device)}
    seconds: dict[str, float | None] = {}
    for backend in BACKENDS:
        if backend == "triton" and not runs[name]:
            seconds[backend] = None
            continue
        with ops.use_backend(backend):
            seconds[backend] = median_seconds(call, least)
    return seconds


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for people, in milliseconds."""
    shown = Table()
    for title in ("encoder", "batch", "operation"):
        shown.add_column(title, no_wrap=True)
    for title in ("reference ms", "triton ms", "ratio"):
        shown.add_column(title, justify="right")
    for row in rows:
        plain, fused = row["reference"], row["triton"]
        shown.add_row(
            row["site"],
            str(row["batch"]),
            row["op"],
            f"{plain * 1e3:.3f}",
            "-" if fused is None else f"{fused * 1e3:.3f}",
            "-" if fused is None else f"{plain / fused:.2f}",
        )
    return shown


def loops_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of `--loops` for people, in milliseconds."""
    shown = Table()
    for title in ("operation", "tokens", "picks", "loop ms", "operation ms", "ratio", "same picks"):
        shown.add_column(title, justify="right")
    for row in rows:
        shown.add_row(
            row["op"],
            str(row["tokens"]),
            str(row["picks"]),
            f"{row['loop'] * 1e3:.1f}",
            f"{row['fast'] * 1e3:.1f}",
            f"{row['ratio']:.1f}",
            "yes" if row["same"] else "no",
        )
    return shown


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table, writes the record if asked to, and returns it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="file for the JSON record")
    parser.add_argument("--batch", type=int, action="append", help="batch size; repeatable")
    parser.add_argument("--site", action="append", choices=[site.name for site in SITES])
    parser.add_argument("--seconds", type=float, default=0.2, help="least time per measurement")
    parser.add_argument("--loops", action="store_true", help="measure against plain loops instead")
    parser.add_argument("--rounds", type=int, default=3, help="least turns of loop and operation")
    args = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    sites = [site for site in SITES if args.site is None or site.name in args.site]
    with torch.inference_mode():
        if args.loops:
            rows = loops.measure(loops.SIZES, args.rounds)
        else:
            rows = measure(sites, args.batch or [1, 8], device, dtype, args.seconds)
    console.print(loops_table(rows) if args.loops else table(rows))
    record: dict[str, Any] = {"schema_version": 1, "environment": describe_environment()}
    if args.loops:
        # Processes that wanted a core in the last quarter of an hour, on average.
        record["load"] = os.getloadavg()[2]
    record["rows"] = rows
    return record if args.out is None else finish(console, args.out, record)


if __name__ == "__main__":
    main()
