"""Compiled towers of a GPU's record: strategies against dense that is compiled the same way."""

from __future__ import annotations

from generators.markdown import Data, table

MODES = {"compiled": "compiled", "graphs": "CUDA graphs"}
Cells = dict[tuple[str, str], dict[str, Data]]


def compiled(rows: list[Data]) -> str:
    """A table for each batch size, and a list of what is slower than dense.

    Args:
        rows: of all towers; those of other modes are passed over.
    """
    rows = [row for row in rows if row["mode"] in MODES]
    if not rows:
        return ""
    names = list(dict.fromkeys(row["strategy"] for row in rows if row["strategy"] != "dense"))
    parts = [
        "Compiled towers: dense in milliseconds, strategies as a speed-up over dense that is "
        'compiled in the same mode, `torch.compile` by itself or with `mode="reduce-overhead"` '
        "(CUDA graphs). A pass is what a user waits for, with the work of the CPU ahead of it; in "
        "parentheses, where it was recorded, the GPU alone. Strategies that end in `recorded` "
        "aren't compiled: `handle.record()` replays their passes, in turn with dense that is "
        "compiled.\n"
    ]
    for batch in sorted({row["batch"] for row in rows}):
        cells: Cells = {}
        for row in rows:
            if row["batch"] == batch:
                cells.setdefault((row["tower"], row["mode"]), {})[row["strategy"]] = row
        parts.append(f"Batch {batch}:\n\n{_table(cells, names)}")
    return "\n".join([*parts, _slower(rows)])


def _table(cells: Cells, names: list[str]) -> str:
    """Towers in each mode as rows, dense and every strategy as columns."""
    lines = [
        (tower, shown, _milliseconds(found), *(_speedup(found, name) for name in names))
        for tower in dict.fromkeys(tower for tower, _ in cells)
        for mode, shown in MODES.items()
        if (found := cells.get((tower, mode)))
    ]
    return table(("tower", "mode", "dense, ms", *names), lines, numbers=1 + len(names))


def _milliseconds(found: dict[str, Data]) -> str:
    if "dense" not in found:
        return "-"
    row = found["dense"]
    alone = row.get("gpu_seconds")
    return f"{row['seconds'] * 1e3:.2f}" + (f" ({alone * 1e3:.2f})" if alone else "")


def _speedup(found: dict[str, Data], name: str) -> str:
    """Of a pass, and in parentheses of the GPU alone."""
    if "dense" not in found or name not in found:
        return "-"
    dense, one = found["dense"], found[name]
    shown = f"{dense['seconds'] / one['seconds']:.2f}"
    alone = [row.get("gpu_seconds") for row in (dense, one)]
    return shown + (f" ({alone[0] / alone[1]:.2f})" if all(alone) else "")


def _slower(rows: list[Data]) -> str:
    """What is slower than dense, in one sentence."""
    dense = {_cell(row): row["seconds"] for row in rows if row["strategy"] == "dense"}
    ratios = [
        (_cell(row), row["strategy"], dense[_cell(row)] / row["seconds"])
        for row in rows
        if row["strategy"] != "dense" and _cell(row) in dense
    ]
    slower: dict[str, list[str]] = {}
    for cell, name, ratio in ratios:
        if ratio < 1:
            slower.setdefault(cell, []).append(f"{name} {ratio:.2f}")
    count = sum(map(len, slower.values()))
    named = [f"- {cell}: {'; '.join(found)}\n" for cell, found in slower.items()]
    told = f"Slower than dense that is compiled are {count} of {len(ratios)} rows"
    return f"{told}:\n\n{''.join(named)}" if named else f"{told}.\n"


def _cell(row: Data) -> str:
    return f"{row['tower']}, batch {row['batch']}, {MODES[row['mode']]}"
