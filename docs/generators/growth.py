"""The record of `benchmarks/growth.py` as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from generators.markdown import Data, table


def growth(record: Data) -> str:
    """What plans add by the number of pictures, then operations by the number of tokens."""
    images, tokens = record["images"], record["tokens"]
    counts = sorted({row["images"] for row in images})
    sizes = sorted({row["tokens"] for row in tokens})
    told = (
        f"Medians of {record['rounds']} calls or more; {record['load']:.1f} processes on average "
        f"wanted one of the {record['environment']['cores']} cores.\n"
    )
    parts = [
        told,
        "What a plan adds to a call of one prompt (selection and reduction), in milliseconds, and "
        "the operations that it adds, by the number of pictures:\n",
        _images(record, counts),
        f"Operations on one picture, in milliseconds, by its number of tokens; at a fixed ratio "
        f"one token of {record['ratio']} is picked. *Nature* is the power of the number of tokens "
        "that the definition takes, and why. *FLOPs* are those at the most tokens, as a share of "
        f"the FLOPs of one attention of {record['heads']} heads. What a further pick takes is the "
        f"difference of {2 * record['picks']} and {record['picks']} picks; a dash stands where it "
        "is lost in the noise of both.\n",
        _tokens(record, sizes),
    ]
    return "\n".join(parts)


def _images(record: Data, counts: Sequence[int]) -> str:
    rows = []
    for found in record["images_exponents"]:
        mine = {
            row["images"]: row[found["of"]]
            for row in record["images"]
            if all(row[key] == found[key] for key in ("model", "strategy", "at"))
        }
        timed = found["of"] == "seconds"
        cells = [f"{1e3 * mine[n]:.1f}" if timed else str(mine[n]) for n in counts]
        what = "ms" if timed else "operations"
        ends = (f"{found['exponent']:z.2f}", f"{found['tail']:z.2f}")
        rows.append((found["model"], f"{found['strategy']} ({found['at']})", what, *cells, *ends))
    rows.sort(key=lambda row: (row[0], row[2], row[1]))
    heading = ("model", "strategy", "of", *map(str, counts), "exponent", "tail")
    return table(heading, rows, numbers=len(counts) + 2)


def _tokens(record: Data, sizes: Sequence[int]) -> str:
    rows = []
    for found in record["tokens_exponents"]:
        mine = {
            row["tokens"]: row
            for row in record["tokens"]
            if (row["op"], row["picks_by"]) == (found["op"], found["picks_by"])
        }
        picks = {"count": f"{record['picks']}", "ratio": "ratio", "-": "-"}
        cells = [_milliseconds(mine[n]["seconds"]) for n in sizes]
        share = mine[sizes[-1]]["flops"] / record["attention_flops"][str(sizes[-1])]
        name = found["op"] if " " in found["op"] else f"`{found['op']}`"
        ends = (f"{found['exponent']:z.2f}", f"{found['tail']:z.2f}", str(found["nature"]))
        sets = picks.get(found["picks_by"], found["picks_by"])
        rows.append((name, sets, found["why"], *cells, f"{share:.3f}", *ends))
    heading = ("operation", "picks", "what grows", *map(str, sizes), "FLOPs")
    return table((*heading, "exponent", "tail", "nature"), rows, numbers=len(sizes) + 4)


def _milliseconds(seconds: float) -> str:
    """A time; a dash where a difference of two times is no time."""
    return f"{1e3 * seconds:.2f}" if seconds > 0 else "-"
