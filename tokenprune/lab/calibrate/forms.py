"""How numbers of budgets are written: those that decide, on the side of the limit they are on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tokenprune.lab.calibrate.goals import Goal
from tokenprune.lab.judge.columns import RESULTS, Form
from tokenprune.lab.judge.result import Result
from tokenprune.lab.measure.statistics import Interval

#: Places behind the point at most.
MOST = 9

#: Shares of operations get a place more than elsewhere: those of neighbouring budgets differ by
#: little.
OPERATIONS = Form(".3f", ".3f")


def forms(goal: Goal, results: Iterable[Result]) -> Mapping[str, Form]:
    """The forms of all columns by heading.

    Args:
        goal: what has to hold. The column that it is about gets as many places as it takes for no
            number to be rounded to the other side of the limit.
        results: whose numbers are written.
    """
    found = {column.heading: column.form for column in RESULTS} | {"FLOPs / dense": OPERATIONS}
    own, reached = found[goal.heading], [goal.reached(result) for result in results]
    sign, _, places = own.people.rstrip("f").rpartition(".")

    def sided(count: int) -> bool:
        return all(goal.within(round(one, count)) == goal.within(one) for one in reached)

    enough = next((count for count in range(int(places), MOST) if sided(count)), MOST)
    found[goal.heading] = replace(own, people=f"{sign}.{enough}f")
    return found


class Written(NamedTuple):
    """The numbers of a result as text, intervals with both ends behind the number.

    Attributes:
        points: of accuracy against dense.
        flops: as a share of dense.
        time: as a share of dense.
    """

    points: Sequence[str]
    flops: str
    time: Sequence[str]


def written(goal: Goal, results: Iterable[Result], one: Result) -> Written:
    """The numbers of one result as a table of all of them has them.

    Args:
        goal: what has to hold.
        results: of the table.
        one: of them.
    """
    own = forms(goal, results)
    assert one.difference is not None

    def ends(heading: str, of: Interval) -> Sequence[str]:
        return [own[heading].shown(end) for end in (of.value, of.low, of.high)]

    return Written(
        ends("vs dense", one.difference),
        own["FLOPs / dense"].shown(one.flops_ratio),
        ends("time / dense", one.total),
    )
