"""The records about videos as Markdown tables."""

from __future__ import annotations

from generators.markdown import Data, percent, points, table


def temporal(record: Data) -> str:
    """EvoPrune's two modes at equal budgets, with paired differences in points."""
    kinds = sorted({kind for row in record["rows"] for kind in row["by type"]})
    cells = []
    for row in record["rows"]:
        own = row["variant"] == "per frame"
        cells.append(
            [
                str(row["tokens a frame"]),
                row["variant"],
                percent(row["accuracy"]),
                "" if own else points(row["difference to per frame"]),
                *(f"{100 * row['by type'].get(kind, 0):.1f}" for kind in kinds),
            ]
        )
    heading = ("tokens a frame", "variant", "accuracy, %", "to per frame, points", *kinds)
    told = f"{record['questions']} questions. Intervals: 95 %, paired bootstrap over clips.\n"
    return told + "\n" + table(heading, cells, numbers=len(heading) - 2)


def video_model(record: Data) -> str:
    """Accuracy by question type: dense, with changed frames, and with fewer tokens."""
    kinds = list(record["dense"])
    rows = [("dense", record["dense"]), *record["changed"].items()]
    cells = [[name, *(f"{values[kind]:.1f}" for kind in kinds)] for name, values in rows]
    told = (
        f"{record['questions']['all']} questions on {record['held_out']['clips']} clips; percent "
        f"right. The folder takes {record['megabytes']} MB.\n"
    )
    return told + "\n" + table(("frames", *kinds), cells, numbers=len(kinds))
