"""The record of a GPU as Markdown tables."""

from __future__ import annotations

from typing import Any

from generators import gpu_compiled
from generators.markdown import Data, table

MODES = {"eager": "eager", "recorded": "CUDA graph"}
#: What the names of strategies end in, where the tower is compiled, or its passes are recorded.
COMPILED, RECORDED = ", tower compiled", ", tower recorded"
GRAPHS = gpu_compiled.MODES["graphs"]


def gpu(record: Data) -> str:
    """The tables of `benchmarks/gpu.sh`: kernels, towers, time to first token, operations."""
    parts = [
        _kernels(record.get("kernels", [])),
        _towers([row for row in record["towers"] if row["mode"] not in gpu_compiled.MODES]),
        gpu_compiled.compiled(record["towers"]),
        _first_token(record["first_token"]),
        _operations(record.get("operations", [])),
        _sizes(record.get("launches", [])),
    ]
    refused = [row["refused"] for row in record["first_token"] if "refused" in row]
    parts += [f"Refused: {refusal}\n" for refusal in refused]
    failed = [f"{row['what']} ({row['error']})" for row in record.get("failed", [])]
    if failed:
        parts.append(f"Failed: {'; '.join(failed)}.\n")
    if record["left_out"]:
        parts.append(f"No time was left for: {'; '.join(record['left_out'])}.\n")
    return "\n".join(part for part in parts if part)


def _kernels(rows: list[Data]) -> str:
    """One sentence: how far kernels are from their references."""
    ran = [row for row in rows if row["triton"] == "ran"]
    if not ran:
        return ""
    far = max(ran, key=lambda row: row.get("difference", 0.0))
    failed = sorted({row["op"] for row in rows if row["triton"] == "failed"})
    same = min(row.get("same", 1.0) for row in ran)
    return (
        f"Kernels against references, {len({row['op'] for row in ran})} operations with features "
        f"in {ran[0]['dtype'].removeprefix('torch.')} at {_listed(row['tokens'] for row in ran)} "
        f"tokens: {same:.1%} of all indices or more are equal, the largest difference of a number "
        f"is {far.get('difference', 0.0):.2g} (`{far['op']}`)."
        + (f" Failed: {', '.join(failed)}." if failed else "")
        + "\n"
    )


def _listed(numbers: Any) -> str:
    return " and ".join(map(str, sorted(set(numbers))))


def _towers(rows: list[Data]) -> str:
    """Passes of towers: dense in milliseconds, strategies as a speed-up over it."""
    if not rows:
        return ""
    names = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "dense"))
    groups: dict[tuple[str, int, str], dict[str, Data]] = {}
    for row in rows:
        key = row["tower"], row["batch"], row["mode"]
        groups.setdefault(key, {})[row["strategy"]] = row
    lines = []
    for (tower, batch, mode), found in groups.items():
        dense = found.get("dense")
        head = tower, str(batch), MODES.get(mode, mode)
        times = ["-" if dense is None else f"{dense['seconds'] * 1e3:.2f}"]
        for name in names:
            one = found.get(name)
            known = one is not None and dense is not None
            times.append(f"{dense['seconds'] / one['seconds']:.2f}" if known else "-")
        lines.append((*head, *times))
    heading = ("tower", "batch", "mode", "dense, ms", *(f"{name}, speed-up" for name in names))
    return table(heading, lines, numbers=1 + len(names)) + "\n" + _launches(rows, names)


def _launches(rows: list[Data], names: list[str]) -> str:
    """Kernels of an eager pass, and the milliseconds that these alone take."""
    columns = ["dense", *names]
    counted: dict[tuple[str, int], dict[str, Data]] = {}
    for row in rows:
        if row.get("launches") is not None:
            counted.setdefault((row["tower"], row["batch"]), {})[row["strategy"]] = row
    if not counted:
        return ""
    lines = [
        (tower, str(batch), *(_kernel_time(found.get(name)) for name in columns))
        for (tower, batch), found in counted.items()
    ]
    told = "Kernels that an eager pass launches, and milliseconds that these alone take:\n\n"
    return told + table(("tower", "batch", *columns), lines, numbers=len(columns))


def _kernel_time(row: Data | None) -> str:
    if row is None:
        return "-"
    seconds = row.get("kernel_seconds")
    return f"{row['launches']}" + (f" ({seconds * 1e3:.2f})" if seconds else "")


def _first_token(rows: list[Data]) -> str:
    """Dense in milliseconds, strategies as a speed-up over dense with a tower of the same kind."""
    groups: dict[tuple[str, int, str], dict[str, float]] = {}
    for row in rows:
        if "refused" not in row:
            name, compiled, _ = row["strategy"].partition(COMPILED)
            replayed, recorded, _ = name.partition(RECORDED)
            if recorded:  # beside dense whose tower is replayed as well
                name = f"{replayed} with `record()`"
            key = row["model"], row["images"], GRAPHS if compiled or recorded else "eager"
            groups.setdefault(key, {})[name] = row["seconds"]
    names = list(dict.fromkeys(name for found in groups.values() for name in found))
    strategies = [name for name in names if name != "dense"]
    lines = [
        (
            model,
            str(images),
            tower,
            f"{found['dense'] * 1e3:.1f}" if "dense" in found else "-",
            *(_answer(found, name) for name in strategies),
        )
        for (model, images, tower), found in groups.items()
    ]
    heading = ("model", "images", "tower", "dense, ms", *(f"{name}, ms" for name in strategies))
    told = "Time to first token, in parentheses the speed-up over dense with a tower of that kind"
    if any(tower == GRAPHS for _, _, tower in groups):
        told += f'; a tower with {GRAPHS} is compiled with `mode="reduce-overhead"`'
    return f"{told}:\n\n{table(heading, lines, numbers=len(strategies) + 1)}" if lines else ""


def _answer(found: dict[str, float], name: str) -> str:
    if name not in found:
        return "-"
    shown = f"{found[name] * 1e3:.1f}"
    return shown + (f" ({found['dense'] / found[name]:.2f})" if "dense" in found else "")


def _operations(rows: list[Data]) -> str:
    """Operations with kernels: both times with what launching takes."""
    lines = [
        (
            row["site"],
            str(row["batch"]),
            f"`{row['op']}`",
            f"{row['reference'] * 1e3:.3f}",
            f"{row['triton'] * 1e3:.3f}",
            f"{row['reference'] / row['triton']:.2f}",
        )
        for row in rows
        if row["triton"] is not None
    ]
    if not lines:
        return ""
    heading = ("encoder", "batch", "operation", "reference, ms", "Triton, ms", "ratio")
    return table(heading, lines, numbers=3)


def _sizes(rows: list[Data]) -> str:
    """The sizes of programs that were tried, in microseconds of the operation."""
    lines = [
        (
            f"`{row['kernel']}`",
            ", ".join(f"{name} {value}" for name, value in row["sizes"].items()) or "its own",
            "-" if row["seconds"] is None else f"{row['seconds'] * 1e6:.1f}",
        )
        for row in rows
    ]
    if not lines:
        return ""
    told = "Sizes of kernels' programs, and the time of the operation that they are part of:\n\n"
    return told + table(("kernel", "sizes", "us"), lines, numbers=1)
