"""Benchmark records as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable

from generators.markdown import Data, table

TIMES = ("encode", "select", "project", "prefill", "decode")
COUNTS = (("encoder out", "encoder"), ("LLM in", "llm"), ("LLM mean", "llm_average"))


def environment(record: Data) -> str:
    """One line: what the record was made with."""
    facts = record["environment"]
    packages = facts.get("packages", {})
    names = ("torch", "transformers", "timm", "triton")
    versions = [f"{n} {v}" for n in names if (v := packages.get(n) or facts.get(n))]
    device = facts.get("accelerator") or facts.get("processor") or facts.get("machine", "CPU")
    threads = f"{facts['threads']} threads" if "threads" in facts else ""
    made = record.get("created", "")
    return "Record: " + ", ".join(part for part in (device, threads, *versions, made) if part) + "."


def comparison(record: Data) -> str:
    """Tables of `tokenprune compare`, a group of rows each."""
    task, model = record["task"], record["model"]
    told = (
        f"{task['samples']} samples of {task['images']} images ({task['name']}), model "
        f"`{model['name']}` in {model['dtype']} on {model['device']}. *Of dense* is the accuracy "
        "as a share of the dense model's, with a 95 % paired bootstrap interval over images; "
        "FLOPs and times are shares of dense, `select` of the whole dense time.\n"
    )
    meanings = sorted({(row["name"], row["meaning"]) for row in record["results"]})
    counted: dict[str, list[str]] = {}
    for name, meaning in meanings:
        counted.setdefault(meaning, []).append(f"`{name}`")
    legend = [f"- keep of {', '.join(names)}: {what}" for what, names in counted.items() if what]
    parts = [told, *_groups(record), *_probe(record), "What the budget counts:\n", *legend, ""]
    if record["failures"]:
        parts += ["**Checks that failed:**\n", *(f"- {line}" for line in record["failures"]), ""]
    return "\n".join(parts)


def comparison_by_type(record: Data) -> str:
    """The same, and the accuracy of every row by type of question."""
    types = list(record["dense"]["by_type"])
    rows = [
        (row["name"], row["keep"], *(f"{100 * row['by_type'][kind]:.1f}" for kind in types))
        for row in (record["dense"], *record["results"])
    ]
    told = "Accuracy by type of question, in %:\n"
    return "\n".join([comparison(record), told, table(("plan", "keep", *types), rows), ""])


def _groups(record: Data) -> Iterable[str]:
    rows = record["results"]
    counts = [pair for pair in COUNTS if any(pair[1] in row["tokens"] for row in rows)]
    times = [name for name in TIMES if any(row["time"].get(name) is not None for row in rows)]
    heading = ("plan", "keep", "accuracy", "of dense, %", "agree, %")
    numbers = (*(title for title, _ in counts), "FLOPs", *times, "total")
    for group in dict.fromkeys(row["group"] for row in rows):
        shown = [record["dense"], *(row for row in rows if row["group"] == group)]
        yield f"### {group.capitalize()}\n"
        cells = [_compared(row, [key for _, key in counts], times) for row in shown]
        yield table((*heading, *numbers, "note"), cells)


def _compared(row: Data, counts: list[str], times: list[str]) -> list[str]:
    kept = row["retention"]
    low, high = (f"{100 * kept[end]:.1f}" for end in ("low", "high"))
    name = row["name"] if row["positions"] == "original" else f"{row['name']}, {row['positions']}"
    return [
        name,
        row["keep"],
        f"{100 * row['accuracy']['value']:.1f}",
        f"{100 * kept['value']:.1f} [{low} {high}]",
        f"{100 * row['agreement']:.1f}",
        *(f"{row['tokens'][key]:.4g}" if key in row["tokens"] else "-" for key in counts),
        f"{row['flops_ratio']:.2f}",
        *("-" if row["time"].get(key) is None else f"{row['time'][key]:.2f}" for key in times),
        f"{row['total']['value']:.2f}",
        "; ".join([*_lengths(row), *row["marks"]]),
    ]


def _lengths(row: Data) -> list[str]:
    """Token counts of a method that sets them itself."""
    found = row.get("lengths")
    if not found:
        return []
    return [f"{found['least']:.3g} to {found['most']:.3g} tokens, median {found['middle']:.3g}"]


def _probe(record: Data) -> list[str]:
    """What can still be read by place, if the record says."""
    places = record.get("probe") or {}
    if not places:
        return []
    rows = [
        (
            row["name"],
            row["keep"],
            *(f"{100 * row['probe'][place]['value']:.1f}" for place in places),
        )
        for row in record["results"]
    ]
    heading = ("plan", "keep", *places)
    return ["### Readable of the encoder's features, % of dense\n", table(heading, rows)]


def serving(record: Data) -> str:
    """The table of `benchmarks/serving.py`."""
    heading = ("plan", "traffic", "prompt tokens", "TTFT, s", "whole, s", "requests/s")
    rows = []
    for row in record["rows"]:
        for kind, found in row["kinds"].items():
            times = (found["ttft"], found["end_to_end"], found["requests_per_second"])
            cells = (f"{found['prompt_tokens']:.0f}", *(f"{one:.2f}" for one in times))
            rows.append((row["plan"], kind, *cells))
    load = f"Load of the machine before: {record['load']['before'][0]:.1f}."
    return f"{table(heading, rows)}\n{load}\n"


def encoders(record: Data) -> str:
    """The table of `benchmarks/encoders.py`."""
    heading = (
        "encoder",
        "batch",
        "strategy",
        "kept",
        "speed-up",
        "range",
        "FLOPs ratio",
        "achieved",
        "selection share",
    )
    rows = [_encoder(row) for row in record["rows"]]
    return table(heading, rows, numbers=5)


def _encoder(row: Data) -> tuple[str, ...]:
    graphs = f", compiled ({row['graphs'][1]} graphs)" if row.get("graphs") else ""
    head = (
        row["encoder"],
        str(row["batch"]),
        row["strategy"] + (graphs or (", compiled" if row.get("compiled") else "")),
        f"{row['kept']:.0f} of {row['patches']}",
    )
    if "failed" in row:
        return (*head, "failed", row["failed"], f"{row['flops_ratio']:.2f}", "-", "-")
    return (
        *head,
        f"{row['speedup']:.2f}",
        "{:.2f} to {:.2f}".format(*row["speedup_range"]),
        f"{row['flops_ratio']:.2f}",
        f"{row['achieved']:.2f}",
        "-" if row["select_share"] is None else f"{row['select_share']:.1%}",
    )


def ops(record: Data) -> str:
    """The table of `benchmarks/ops.py`, in milliseconds."""
    rows = [
        (
            row["site"],
            str(row["batch"]),
            f"`{row['op']}`",
            row["device"],
            f"{row['reference'] * 1e3:.3f}",
            "-" if row["triton"] is None else f"{row['triton'] * 1e3:.3f}",
            "-" if row["triton"] is None else f"{row['reference'] / row['triton']:.2f}",
        )
        for row in record["rows"]
    ]
    heading = ("encoder", "batch", "operation", "device", "reference, ms", "Triton, ms", "ratio")
    return table(heading, rows, numbers=3)


def loops(record: Data) -> str:
    """The table of `benchmarks/ops.py --loops`, in milliseconds."""
    told = (
        f"{record['load']:.1f} processes on average wanted one of the "
        f"{record['environment']['cores']} cores while this was measured, so read the ratios, not "
        "the times.\n"
    )
    rows = [
        (
            f"`{row['op']}`",
            f"{row['picks']} of {row['tokens']}",
            "yes" if row["same"] else "no",
            f"{row['loop'] * 1e3:.1f}",
            f"{row['fast'] * 1e3:.1f}",
            f"{row['ratio']:.1f}",
            f"{row['quartiles'][0]:.1f} to {row['quartiles'][1]:.1f}",
        )
        for row in record["rows"]
    ]
    heading = ("operation", "picks", "same", "loop, ms", "operation, ms", "ratio", "quartiles")
    return f"{told}\n{table(heading, rows, numbers=4)}"


def defaults(record: Data) -> str:
    """The table of `benchmarks/defaults.py`."""
    rows = record["rows"]
    keeps = list(next(cells for name, cells in rows.items() if name != "dense"))
    dense = next(iter(rows["dense"].values()))
    share, count = dense["report"]["accuracy"], dense["report"]["samples"]
    error = 100 * (share * (1 - share) / count) ** 0.5
    told = (
        f"{record['samples']} samples, {count} of them reported. Dense: {_halves(dense)}, with a "
        f"naive standard error of {error:.1f} points on the reported half.\n"
    )
    cells = [
        (name, *(_halves(found[keep]) if keep in found else "-" for keep in keeps))
        for name, found in rows.items()
        if name != "dense"
    ]
    return "\n".join([told, table(("variant", *keeps), cells, numbers=len(keeps))])


def _halves(found: Data) -> str:
    report, choose = (100 * found[half]["accuracy"] for half in ("report", "choose"))
    return f"{report:.1f} ({choose:.1f})"


def picture_model(record: Data) -> str:
    """The tables of the card of a bundled model of pictures."""
    from training.reference_model.card import accuracy_table, selection_table

    held = record["held_out"]
    return "\n".join(
        [
            f"Percent right of the questions about {held['images']} held-out pictures.\n",
            accuracy_table(record),
            "\nOver all questions, by who chose the kept tokens after the tower. `random` is the "
            f"mean of {record['random_draws']} draws, `object-oracle` sees the truth.\n",
            selection_table(record),
            "",
        ]
    )
