"""The benchmark for a terminal: times and what they mean, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tokenprune.errors.visible import visible
from tokenprune.lab.bench.rows import BenchRow, attention_of

#: Order of the stages in a call.
STAGES = ("load", "encode", "select", "project", "prefill", "decode")

#: Where tokens are counted for people: handed to an LLM and in the mean over its layers, or left by
#: an encoder alone.
LLM = {"llm": "LLM in", "llm_average": "LLM mean"}
ENCODER = {"encoder": "encoder out"}


def bench_tables(rows: Sequence[BenchRow]) -> list[Table]:
    """Two tables: speed, and milliseconds by stage."""
    return [_speed(rows), _stages(rows)]


def verdicts(rows: Sequence[BenchRow]) -> list[str]:
    """One sentence for every plan and workload; a net loss is called one."""
    bases = {row.workload: row.name for row in rows if row.baseline}
    return [
        f"{row.name}, {row.workload.label}{', to the first token' if row.ttft else ''}: "
        f"{row.speedup.against(bases[row.workload])}"
        for row in rows
        if not row.baseline
    ]


def _speed(rows: Sequence[BenchRow]) -> Table:
    generates = any(row.ttft for row in rows)
    tokens = "to the first token (TTFT), and of each after it (token)"
    table = Table(title=f"Milliseconds {tokens if generates else 'of one pass'}")
    backends = ("dense attention",) if len(attention_of(rows)) > 1 else ()
    for name in ("workload", *backends, "plan"):
        table.add_column(name)
    after = ("token",) if generates else ()
    cache = ("KV MB",) if generates else ()
    names = ("p95", *after, "vs dense", "quartiles", "GFLOPs", "peak MB", *cache)
    for name in ("TTFT p50" if generates else "pass p50", *names):
        table.add_column(name, justify="right")
    for row in rows:
        shown, gain = row.ttft or row.total, row.speedup
        ratio = (f"{gain.median:.2f}x", f"{gain.low:.2f}-{gain.high:.2f}")
        table.add_row(
            row.workload.label,
            *((row.attention,) if backends else ()),
            Text(visible(row.name)),
            _ms(shown.p50),
            _ms(shown.p95),
            *(() if row.token is None else (_ms(row.token),)),
            *(("", "") if row.baseline else ratio),
            f"{row.flops / 1e9:.2f}",
            "-" if row.peak is None else f"{row.peak / 1e6:.1f}",
            *(() if row.cache is None else (f"{row.cache / 1e6:.2f}",)),
        )
    return table


def _stages(rows: Sequence[BenchRow]) -> Table:
    table = Table(title="Milliseconds by stage, and visual tokens per image")
    places = LLM if any("llm" in row.tokens for row in rows) else ENCODER
    for name in ("workload", "plan"):
        table.add_column(name)
    for name in (*STAGES, *places.values()):
        table.add_column(name, justify="right")
    for row in rows:
        cells = [_ms(row.stages[name]) if name in row.stages else "-" for name in STAGES]
        tokens = [f"{row.tokens.get(place, 0.0):.0f}" for place in places]
        table.add_row(row.workload.label, Text(visible(row.name)), *cells, *tokens)
    return table


def _ms(value: float) -> str:
    return f"{value * 1000:.1f}"
