"""The benchmark for a terminal: times and what they mean, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tokenprune.bench.run import DENSE, BenchRow

#: Order of the stages in a call.
STAGES = ("load", "encode", "select", "project", "prefill", "decode")


def bench_tables(rows: Sequence[BenchRow]) -> list[Table]:
    """Two tables: speed, and milliseconds by stage."""
    return [_speed(rows), _stages(rows)]


def verdicts(rows: Sequence[BenchRow]) -> list[str]:
    """One sentence for every plan and workload; a net loss is called one."""
    return [
        f"{row.name}, {row.workload.label}: {row.speedup.words}"
        for row in rows
        if row.name != DENSE
    ]


def _speed(rows: Sequence[BenchRow]) -> Table:
    table = Table(title="Speed, to the first token and after it")
    for name in ("workload", "plan"):
        table.add_column(name)
    for name in (
        "TTFT p50",
        "p95",
        "token",
        "vs dense",
        "quartiles",
        "GFLOPs",
        "peak MB",
        "KV MB",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        gain = row.speedup
        table.add_row(
            row.workload.label,
            row.name,
            _ms(row.ttft.p50),
            _ms(row.ttft.p95),
            _ms(row.token),
            "" if row.name == DENSE else f"{gain.median:.2f}x",
            "" if row.name == DENSE else f"{gain.low:.2f}-{gain.high:.2f}",
            f"{row.flops / 1e9:.2f}",
            f"{row.peak / 1e6:.1f}",
            f"{row.cache / 1e6:.2f}",
        )
    return table


def _stages(rows: Sequence[BenchRow]) -> Table:
    table = Table(title="Milliseconds by stage, and visual tokens per image at the LLM's input")
    for name in ("workload", "plan"):
        table.add_column(name)
    for name in (*STAGES, "tokens"):
        table.add_column(name, justify="right")
    for row in rows:
        tokens = row.tokens.get("llm", row.tokens.get("encoder", 0.0))
        cells = [_ms(row.stages.get(name, 0.0)) for name in STAGES]
        table.add_row(row.workload.label, row.name, *cells, f"{tokens:.0f}")
    return table


def _ms(value: float) -> str:
    return f"{value * 1000:.1f}"
