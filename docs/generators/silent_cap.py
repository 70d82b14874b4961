"""The silent cap on budgets that can't be reached: a hypothesis with its tables."""

from __future__ import annotations

from collections.abc import Callable

from generators.markdown import Data, percent, points, table

HEAD = """\
## A hypothesis: budgets that were silently missed

**Not proven.** A step of EvoPrune removes at most half of its tokens, so a fixed r for every step
can't reach small budgets under most schedules. tokenprune moves what is left over to other steps,
so that the count of the plan holds, or refuses the plan. Code after ToMe writes `min(r, T / 2)`
and goes on with more tokens than were asked for. The paper doesn't say what its code does. If it
did this, its schedules would be compared at different numbers of tokens, and part of their order
in appendix A would be one of counts. With the smallest fixed r that would reach the budget, the
paper's 729 tokens would end at:
"""

OURS = """\
The same cap on the reference model. *Left* is how many tokens reach the LLM; *exact* is the
schedule that keeps what was asked for, as in the tables above; accuracies in percent, differences
in points.
"""

AGAINST = """\
Against the hypothesis: the paper's Table 2 prints the same LLM latency for EvoPrune and for
baselines with 16 tokens, which a longer sequence wouldn't give.
"""


def silent_cap(found: Data, variant: Callable[[str], str]) -> str:
    """The section.

    Args:
        found: of the record.
        variant: what the page calls a schedule.
    """
    parts = [HEAD, _paper(found, variant), OURS]
    targets = list(dict.fromkeys(key for row in found["rows"].values() for key in row))
    for target in targets:
        parts.append(_measured(found, target, variant))
    if found["orderings"]:
        parts += ["The paper's orderings of schedules under the cap:\n"]
        parts += [_orders(found, targets, variant)]
    return "\n".join([*parts, AGAINST])


def _paper(found: Data, variant: Callable[[str], str]) -> str:
    targets = list(next(iter(found["paper"].values())))
    cells = [
        (variant(name), *(str(row[target]) for target in targets))
        for name, row in found["paper"].items()
    ]
    heading = ("schedule", *(f"asked for {target}" for target in targets))
    return table(heading, cells, numbers=len(targets))


def _measured(found: Data, target: str, variant: Callable[[str], str]) -> str:
    rows = sorted(
        ((name, row[target]) for name, row in found["rows"].items() if target in row),
        key=lambda pair: -pair[1]["accuracy"]["value"],
    )
    cells = [
        (
            variant(name),
            str(cell["left"]),
            percent(cell["accuracy"]),
            percent(cell["exact"]) if "exact" in cell else "-",
            points(cell["above_exact"]) if "above_exact" in cell else "-",
        )
        for name, cell in rows
    ]
    heading = (f"asked for {target}", "left", "with the cap", "exact", "difference")
    return table(heading, cells, numbers=4)


def _orders(found: Data, targets: list[str], variant: Callable[[str], str]) -> str:
    cells = [
        (
            f"{variant(row['better'])} over {variant(row['worse'])}",
            *(
                points(row["difference"][key]) if key in row["difference"] else "-"
                for key in targets
            ),
        )
        for row in found["orderings"]
    ]
    return table(("ordering", *(f"asked for {target}" for target in targets)), cells)
