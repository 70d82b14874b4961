"""EvoPrune's own orderings beside ours: tables and a statement, both computed from the record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper_evoprune import SCHEDULES, TABLE_3
from generators.markdown import MARK, table
from generators.records import environment

RECORD = Path(__file__).parents[2] / "benchmarks" / "records" / "reproduction.json"
COMMAND = "python -m benchmarks.reproduction"
Data = dict[str, Any]

PAGE = """\
# Reproduction of EvoPrune

{mark}
EvoPrune's paper (arXiv 2603.03681) takes its score apart in Table 3 and compares six schedules in
appendix A, on LLaVA-Video-7B. This page runs the same variants on the bundled
[reference model](benchmarks.md#the-reference-model-itself). Model, data and budgets differ, so
accuracies can't be compared, only their order. Numbers that are the paper's are marked as such;
all others come from this record.

```sh
{command}
```

{body}"""

VERDICTS = {
    "yes": "Reproduces",
    "no": "Comes out the other way round",
    "open": "Can't be told",
}


def reproduction(path: Path = RECORD) -> str:
    """The page, in Markdown.

    Args:
        path: the record.
    """
    body = f"Not recorded yet: the command above makes `{path.name}`.\n"
    if path.exists():
        body = _body(json.loads(path.read_text(encoding="utf-8")))
    mark = MARK.format(source="benchmarks/records")
    return PAGE.format(mark=mark, command=COMMAND, body=body)


def _body(record: Data) -> str:
    dense = record["dense"]
    told = (
        f"{record['samples']} questions, one about each picture; dense answers "
        f"{_interval(dense)} % of them. All variants answer the same questions. Brackets are 95 % "
        "intervals from resampling pictures. Differences are paired and in points. The "
        "pictures are of a seed that no default was chosen on: see how "
        "[the defaults were chosen](benchmarks.md#how-evoprunes-defaults-were-chosen-reference-"
        "model), with one half of the samples for choosing and another for reporting.\n"
    )
    return "\n".join(
        [
            f"{environment(record)}\n",
            told,
            "## What reproduces\n",
            *statement(record),
            "## Parts of the score\n",
            "Under the paper's default schedule, `skip`, as everywhere without another name. The "
            "paper's columns are its Table 3: mean accuracy on three video benchmarks, and "
            "percent of the unpruned model's.\n",
            parts(record),
            "## Schedules\n",
            "The full score under the paper's six schedules, and ToMe, which the paper doesn't "
            "run. The paper's column is its appendix A, tokens a frame; the rest is only plotted "
            "there.\n",
            schedules(record),
            "## Orderings\n",
            "Difference of the first to the second. An ordering reproduces where the interval is "
            "above zero, comes out the other way round where it is below, and can't be told where "
            "it holds zero. Nothing is corrected for the number of comparisons. *Mean* is over "
            "the budgets, question by question. An interval of no width at zero means that both "
            "variants answered the same questions right.\n",
            orders(record),
            *_refused(record),
        ]
    )


def verdict(difference: Mapping[str, float]) -> str:
    """`yes`, `no` or `open`, by where the interval lies."""
    if difference["low"] > 0:
        return "yes"
    return "no" if difference["high"] < 0 else "open"


def statement(record: Data) -> Iterable[str]:
    """What the intervals say: on the mean of the budgets, with the budgets that differ."""
    groups: dict[str, list[str]] = {key: [] for key in VERDICTS}
    for row in record["orderings"]:
        groups[verdict(row["difference"]["mean"])].append(f"- {_sentence(row)}")
    for key, title in VERDICTS.items():
        if groups[key]:
            count = f"{len(groups[key])} of {len(record['orderings'])} orderings of the paper"
            yield f"**{title}** ({count}):\n"
            yield from (*groups[key], "")
    if record["tome"]:
        yield "**Beyond the paper**, is the full score worth more than plain token merging?\n"
        words = {"yes": "ahead", "no": "behind", "open": "can't be told from it"}
        for row in record["tome"]:
            mean = row["difference"]["mean"]
            told = f"{words[verdict(mean)]}, {_points(mean)} points"
            yield f"- {_variant(row['worse'])}: {told}{_elsewhere(row)}."
        yield ""


def _sentence(row: Data) -> str:
    mean = row["difference"]["mean"]
    told = f"{_variant(row['better'])} over {_variant(row['worse'])}: {_points(mean)} points"
    return f"{told}{_elsewhere(row)}."


def _elsewhere(row: Data) -> str:
    """The budgets whose verdict isn't that of the mean."""
    found = row["difference"]
    words = {"yes": "above zero", "no": "below zero", "open": "undecided"}
    other: dict[str, list[str]] = {}
    for key, value in found.items():
        if key != "mean" and verdict(value) != verdict(found["mean"]):
            other.setdefault(verdict(value), []).append(key)
    parts = [f"{words[key]} at {_listed(keeps)} tokens" for key, keeps in other.items()]
    return f" ({', '.join(parts)})" if parts else ""


def parts(record: Data) -> str:
    """The ablation, beside the paper's Table 3."""
    cells = []
    for name, row in TABLE_3.items():
        theirs = (f"{row.average:.1f}", f"{row.relative:.1f}")
        if name == "dense":
            cells.append((name, *theirs, *[_interval(record["dense"])] * _width(record)))
        elif name in record["rows"]:
            cells.append((_variant(name), *theirs, *_ours(record, name)))
    heading = ("variant", "paper: mean", "paper: of dense, %", *_budgets(record))
    return table(heading, cells, numbers=2 + _width(record))


def schedules(record: Data) -> str:
    """The schedules, beside what the paper says in prose."""
    reported = {**SCHEDULES, "tome": "not in it", "tome, skip": "not in it"}
    cells = [
        (_variant(name), told, *_ours(record, name))
        for name, told in reported.items()
        if name in record["rows"]
    ]
    return table(("schedule", "paper", *_budgets(record)), cells, numbers=_width(record))


def orders(record: Data) -> str:
    """All orderings with their differences."""
    keys = [*map(str, record["keeps"]), "mean"]
    cells = [
        (
            f"{_variant(row['better'])} over {_variant(row['worse'])}",
            row["evidence"],
            *(_points(row["difference"][key]) if key in row["difference"] else "-" for key in keys),
            VERDICTS[verdict(row["difference"]["mean"])].lower(),
        )
        for row in (*record["orderings"], *record["tome"])
    ]
    heading = ("ordering", "paper's numbers", *_budgets(record), "mean", "on the mean")
    return table(heading, cells)


def _ours(record: Data, name: str) -> Sequence[str]:
    row = record["rows"][name]
    return [
        _interval(row[str(keep)]["accuracy"]) if str(keep) in row else "-"
        for keep in record["keeps"]
    ]


def _budgets(record: Data) -> list[str]:
    return [f"{keep} tokens" for keep in record["keeps"]]


def _width(record: Data) -> int:
    return len(record["keeps"])


def _interval(found: Mapping[str, float]) -> str:
    value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low} {high}]"


def _points(found: Mapping[str, float]) -> str:
    # adding zero takes the sign off a rounded -0.0
    rounded = (round(100 * found[key], 1) + 0.0 for key in ("value", "low", "high"))
    value, low, high = (f"{points:+.1f}" for points in rounded)
    return f"{value} [{low} {high}]"


def _variant(name: str) -> str:
    names = {"evoprune": "full score", "tome": "ToMe, every block", "tome, skip": "ToMe, `skip`"}
    if name in SCHEDULES:
        return names.get(name, f"full score, `{name}`")
    return names.get(name, name)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} and {words[-1]}"


def _refused(record: Data) -> Iterable[str]:
    if record["refused"]:
        yield "Not run, because the budget can't be reached:\n"
        yield from (f"- {name}: {why}" for name, why in record["refused"].items())
        yield ""
