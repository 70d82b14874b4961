"""EvoPrune's own orderings beside ours: tables and a statement, both computed from the record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.paper_evoprune import SCHEDULES, TABLE_3
from benchmarks.reproduction import KEEPS
from generators.markdown import MARK, Data, percent, points, table
from generators.records import environment
from generators.silent_cap import silent_cap

RECORD = Path(__file__).parents[2] / "benchmarks" / "records" / "reproduction.json"
COMMAND = "python -m benchmarks.reproduction"

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

REGIME = """\
EvoPrune protects `min(CTR T, T - 2 r)` of the T tokens at a step that removes r. A step that
removes half of its tokens merges every source and protects none, so there the score only chooses
the target. The paper's Table 3 (729 tokens to 64) protects tokens in all of its 13 steps. So
budgets at which nearly every step protects are the ones to compare with it; smaller ones test how
a variant meets the steps that halve. That is why budgets are judged one by one and never pooled.
"""


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
    told = (
        f"{record['samples']} questions, one about each picture; dense answers "
        f"{percent(record['dense'])} % of them. All variants answer the same questions. Brackets "
        "are 95 % intervals from resampling pictures. Differences are paired and in points. The "
        "pictures are of a seed that no default was chosen on: see how "
        "[the defaults were chosen](benchmarks.md#how-evoprunes-defaults-were-chosen-reference-"
        "model), with one half of the samples for choosing and another for reporting.\n"
    )
    left_out = [str(keep) for keep in KEEPS if keep not in record["keeps"]]
    if left_out:
        told += f"\nNot measured yet, for want of time: {_listed(left_out)} tokens.\n"
    parts = [f"{environment(record)}\n", told, "## Which budgets are the paper's regime\n"]
    parts += [REGIME, regime(record), "## What reproduces\n", *statement(record)]
    parts += [
        "## Parts of the score\n",
        "Under the paper's default schedule, `skip`, as everywhere without another name. The "
        "paper's columns are its Table 3: mean accuracy on three video benchmarks, and percent "
        "of the unpruned model's.\n",
        scores(record),
        "## Schedules\n",
        "The full score under the paper's six schedules, and ToMe, which the paper doesn't run. "
        "The paper's column is its appendix A, tokens a frame; the rest is only plotted there.\n",
        schedules(record),
        "## Orderings\n",
        "Difference of the first to the second, at every budget by itself. An ordering reproduces "
        "where the interval is above zero (+), comes out the other way round where it is below "
        "(-), and can't be told where it holds zero (no mark). Nothing is corrected for the number "
        "of comparisons. An interval of no width at zero means that both variants answered the "
        "same questions right.\n",
        orders(record),
    ]
    if "silent_cap" in record:
        parts.append(silent_cap(record["silent_cap"], variant))
    return "\n".join([*parts, *_refused(record)])


def verdict(difference: Mapping[str, float]) -> str:
    """`yes`, `no` or `open`, by where the interval lies."""
    if difference["low"] > 0:
        return "yes"
    return "no" if difference["high"] < 0 else "open"


def regime(record: Data) -> str:
    """In how many of its steps each schedule protects tokens, by budget."""
    cells = []
    for name in SCHEDULES:
        row = record["rows"].get(name, {})
        steps = [row[str(keep)]["steps"] if str(keep) in row else None for keep in record["keeps"]]
        cells.append((variant(name), *map(_protecting, steps)))
    heading = ("steps that protect", *_budgets(record))
    return table(heading, cells, numbers=_width(record))


def _protecting(steps: Mapping[str, int] | None) -> str:
    if steps is None:
        return "-"
    return f"{steps['protecting']} of {steps['steps']}"


def statement(record: Data) -> Iterable[str]:
    """What the intervals say, budget by budget."""
    for keep in record["keeps"]:
        rows = [row for row in record["orderings"] if str(keep) in row["difference"]]
        if not rows:
            continue
        yield f"**{keep} tokens**, {len(rows)} orderings of the paper:\n"
        for key, title in VERDICTS.items():
            mine = [row for row in rows if verdict(row["difference"][str(keep)]) == key]
            if mine:
                yield f"- {title} ({len(mine)}): {'; '.join(_told(row, keep) for row in mine)}."
        yield ""
    if record["tome"]:
        yield "**Beyond the paper**, is the full score worth more than plain token merging?\n"
        for row in record["tome"]:
            yield f"- {variant(row['worse'])}: {_beside(row['difference'])}."
        yield ""


def _told(row: Data, keep: int) -> str:
    """An ordering with its difference; where nothing can be told, its name alone."""
    difference = row["difference"][str(keep)]
    name = f"{variant(row['better'])} over {variant(row['worse'])}"
    return name if verdict(difference) == "open" else f"{name}, {points(difference)}"


def _beside(differences: Mapping[str, Mapping[str, float]]) -> str:
    """At which budgets the full score is ahead, behind, or can't be told from another method."""
    words = {"yes": "ahead", "no": "behind", "open": "can't be told from it"}
    found: dict[str, list[str]] = {}
    for keep, difference in differences.items():
        told = keep if verdict(difference) == "open" else f"{keep} ({points(difference)})"
        found.setdefault(verdict(difference), []).append(told)
    parts = [f"{words[key]} at {_listed(found[key])}" for key in words if key in found]
    return "; ".join(parts)


def scores(record: Data) -> str:
    """The ablation, beside the paper's Table 3."""
    cells = []
    for name, row in TABLE_3.items():
        theirs = (f"{row.average:.1f}", f"{row.relative:.1f}")
        if name == "dense":
            cells.append((name, *theirs, *[percent(record["dense"])] * _width(record)))
        elif name in record["rows"]:
            cells.append((variant(name), *theirs, *_ours(record, name)))
    heading = ("variant", "paper: mean", "paper: of dense, %", *_budgets(record))
    return table(heading, cells, numbers=2 + _width(record))


def schedules(record: Data) -> str:
    """The schedules, beside what the paper says in prose."""
    reported = {**SCHEDULES, "tome": "not in it", "tome, skip": "not in it"}
    cells = [
        (variant(name), told, *_ours(record, name))
        for name, told in reported.items()
        if name in record["rows"]
    ]
    return table(("schedule", "paper", *_budgets(record)), cells, numbers=_width(record))


def orders(record: Data) -> str:
    """All orderings with their differences and verdicts, budget by budget."""
    marks = {"yes": " +", "no": " -", "open": ""}
    cells = []
    for row in (*record["orderings"], *record["tome"]):
        found = (row["difference"].get(str(keep)) for keep in record["keeps"])
        told = ("-" if one is None else f"{points(one)}{marks[verdict(one)]}" for one in found)
        name = f"{variant(row['better'])} over {variant(row['worse'])}"
        cells.append((name, row["evidence"], *told))
    return table(("ordering", "paper's numbers", *_budgets(record)), cells)


def _ours(record: Data, name: str) -> Sequence[str]:
    row = record["rows"][name]
    return [
        percent(row[str(keep)]["accuracy"]) if str(keep) in row else "-" for keep in record["keeps"]
    ]


def _budgets(record: Data) -> list[str]:
    return [f"{keep} tokens" for keep in record["keeps"]]


def _width(record: Data) -> int:
    return len(record["keeps"])


def variant(name: str) -> str:
    """What the page calls a variant."""
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
