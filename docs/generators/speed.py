"""The record of `tokenprune bench` as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable

from generators.markdown import Data, table

#: Rounds up to which the 95th percentile lies between the two slowest.
ENOUGH = 20
STAGES = ("load", "encode", "select", "project", "prefill", "decode")


def speed(record: Data) -> str:
    """Speed and time by stage, a table each, and the losses in words."""
    model, settings = record["model"], record["settings"]
    told = (
        f"Model `{model['name']}` in {model['dtype']} on {model['device']}, dense attention: "
        f"{model['attention']}, {settings['rounds']} rounds. Times in milliseconds; *vs dense* is "
        "the median of the rounds' ratios of the time to the first token, with quartiles. FLOPs: "
        f"{record['flops']}.{_notes(record)}\n"
    )
    losses = [line for line in record["verdicts"] if "a net loss" in line]
    words = ["Net losses:\n", *(f"- {line}" for line in losses), ""] if losses else []
    return "\n".join([told, _speed(record["rows"]), _stages(record["rows"]), *words])


def _notes(record: Data) -> str:
    rounds = record["settings"]["rounds"]
    told = (
        [f"with so few rounds ({rounds}), p95 is nearly the slowest of them"]
        if rounds <= ENOUGH
        else []
    )
    told += [note for note in record.get("notes", ()) if note not in told]
    return "".join(f" Note: {note}." for note in told)


def _speed(rows: Iterable[Data]) -> str:
    rows = list(rows)
    if len({row.get("attention") for row in rows}) > 1:
        rows = [{**row, "name": f"{row['name']} ({row['attention']})"} for row in rows]
    heading = ("input", "plan", "TTFT p50", "p95", "per token", "vs dense", "GFLOPs", "peak MB")
    return table((*heading, "KV MB"), map(_row, rows), numbers=7)


def _row(row: Data) -> list[str]:
    first, gain = row["ttft"] or row["total"], row["speedup"]
    ratio = f"{gain['median']:.2f} [{gain['low']:.2f} {gain['high']:.2f}]"
    return [
        _input(row),
        row["name"],
        _ms(first["p50"]),
        _ms(first["p95"]),
        _ms(row["token"]),
        "" if row["baseline"] else ratio,
        f"{row['flops'] / 1e9:.2f}",
        _mega(row["peak"], 1),
        _mega(row["cache"], 2),
    ]


def _stages(rows: Iterable[Data]) -> str:
    cells = [
        [_input(row), row["name"], *(_ms(row["stages"].get(name)) for name in STAGES)]
        for row in rows
    ]
    return table(("input", "plan", *STAGES), cells, numbers=len(STAGES))


def _input(row: Data) -> str:
    size = row["workload"]
    what = size["own"] or f"{size['height']}x{size['width']}"
    if size["video"]:
        what = f"{size['images']} frames of {what}"
    elif size["images"] > 1:
        what = f"{size['images']} x {what}"
    return f"batch {size['batch']}, {what}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.1f}"


def _mega(value: int | None, digits: int) -> str:
    return "-" if value is None else f"{value / 1e6:.{digits}f}"


def decoding(record: Data) -> str:
    """The table of `benchmarks/decoding.py`: a row for every prompt and cache."""
    names = list(dict.fromkeys(row["strategy"] for row in record["rows"]))[1:]
    rows = []
    for dense in (row for row in record["rows"] if row["strategy"] == "dense"):
        same = ("images", "prompt", "cache")
        mine = {
            row["strategy"]: row
            for row in record["rows"]
            if all(row[key] == dense[key] for key in same)
        }
        ratios = [f"{dense['seconds'] / mine[name]['seconds']:.2f}" for name in names]
        graphs = max(row["graphs"] for row in mine.values())
        head = (str(dense["images"]), str(dense["prompt"]), dense["cache"], str(graphs))
        rows.append((*head, f"{1e3 * dense['seconds']:.2f}", *ratios))
    heading = ("pictures", "prompt", "cache", "graphs a model", "dense, ms")
    return table((*heading, *(f"{name}, speed-up" for name in names)), rows, numbers=1 + len(names))
