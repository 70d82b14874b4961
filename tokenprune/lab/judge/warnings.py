"""What to beware of: the one wording of every warning, and each of them once in a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, nan
from statistics import median

from tokenprune.errors.words import counted, these
from tokenprune.lab.judge.result import PlanRun, Result
from tokenprune.lab.measure.statistics import ENOUGH, Interval, rule_of_three

#: An interval wider than this share can't tell plans apart that differ by a few points (ours).
WIDE = 0.10

#: Times as a share of dense are uneven where the batch in the middle differs by more (ours).
UNEVEN = 0.10

#: So few batches have no one in the middle.
PAIR = 2

#: So many plans and more that a warning is about are counted and not named.
MANY = 6

_HELD_UP = ": a few long ones weigh most, or something held them up"


def warnings_of(
    run: PlanRun, accuracy: Interval, versus: Interval | None, total: Interval, images: int
) -> tuple[str, ...]:
    """The warnings of one row.

    Args:
        run: its failed checks are among them.
        accuracy: of the row.
        versus: accuracy minus that of random, if there is a random to compare with.
        total: seconds as a share of dense.
        images: number of different images.
    """
    found = [str(failure) for failure in run.failures]
    if run.unknown:
        found.append(unknown_words(run.unknown))
    if run.lost:
        answered = len(run.right)
        others = f"; those of tokens, FLOPs and time over {run.ran}" if run.ran > answered else ""
        found.append(
            f"{len(run.lost)} of {answered + len(run.lost)} samples are left out, so all numbers "
            f"are over {answered}{others}; the first: {run.lost[0]}"
        )
    if versus is not None and versus.value < 0:
        unsure = _unsure(versus, 0, images, f"answers to {counted(images, 'picture')}")
        found.append(f"worse than keeping random tokens{unsure}")
    if not run.dense and total.value > 1:
        batches = len(run.wall)
        times = f"times of {counted(batches, 'batch', 'batches')}"
        unsure = _unsure(total, 1, batches, times)
        found.append(f"slower than the dense model{unsure}")
    if uneven := _uneven(run, total.value):
        found.append(uneven)
    if accuracy.high - accuracy.low > WIDE:
        found.append("too few samples: the interval is too wide to tell small differences")
    if accuracy.low == accuracy.high:
        found.append(_empty(accuracy.value, images))
    return tuple(found)


def _unsure(found: Interval, point: int, groups: int, few: str) -> str:
    """Why a number isn't surely on its side of a point, as the end of a sentence; empty if it is.

    Args:
        found: the number.
        point: where the other side begins.
        groups: how many were resampled; of a few that lie on one side, all resamples do.
        few: what they are, if they are too few.
    """
    if not found.excludes(point):
        return f", though the interval includes {point}"
    return "" if groups >= ENOUGH else f", though {few} have no 95 % interval"


def _uneven(run: PlanRun, total: float) -> str:
    """That a few batches decide about the time, as one does that something else held up."""
    pairs = zip(run.wall, run.dense_wall, strict=True)
    middle = median(wall / dense if dense else nan for wall, dense in pairs)
    few = len(run.wall) <= PAIR
    if run.dense or few or not abs(total - middle) > UNEVEN * middle:
        return ""
    return (
        f"time / dense is {total:.2f} over all batches and {middle:.2f} in the middle one{_HELD_UP}"
    )


def _empty(share: float, images: int) -> str:
    """Why resampling shows no interval, and what can be said all the same."""
    if 0 < share < 1:
        every = "of every picture" if images > 1 else "of the only picture"
        return f"{share:.0%} of the answers are right {every}, so the interval is empty"
    most = ceil(100 * rule_of_three(images))  # a bound rounds up
    return (
        f"all answers are {'right' if share else 'wrong'}, so the interval is empty; with "
        f"{these(images, 'picture')} up to {most}% the other way can't be excluded"
    )


def unknown_words(words: Sequence[str]) -> str:
    """What to beware of with words that a tokenizer doesn't know."""
    shown = ", ".join(f"'{word}'" for word in words[:MANY])
    rest = f" and {len(words) - MANY} more" if len(words) > MANY else ""
    return f"the model's tokenizer doesn't know {shown}{rest}, so answers to these mean little"


def gathered(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Which rows, and what to beware of with them; each warning once."""
    about: dict[str, list[str]] = defaultdict(list)
    for result, warnings in zip(results, _said(results), strict=True):
        for warning in warnings:
            about[warning].append(result.title)
    return [(_names(names, len(results)), warning) for warning, names in about.items()]


def notes(results: Sequence[Result]) -> list[str]:
    """Row by row, the numbers of its warnings among those of `gathered`, from 1 on."""
    order = [warning for _, warning in gathered(results)]
    return [", ".join(str(order.index(one) + 1) for one in mine) for mine in _said(results)]


def _said(results: Sequence[Result]) -> list[list[str]]:
    """Row by row, its warnings; numbers that would make a line of each row are left out."""
    uneven = [one for row in results for one in row.warnings if one.endswith(_HELD_UP)]
    if len(uneven) < MANY:
        return [[*row.warnings] for row in results]
    shared = (
        f"time / dense over all batches is more than {UNEVEN:.0%} off that of the middle one"
        f"{_HELD_UP}"
    )
    return [[shared if one in uneven else one for one in row.warnings] for row in results]


def _names(names: Sequence[str], rows: int) -> str:
    if len(names) == rows > 1:
        return "every row"
    return f"{len(names)} of {rows} rows" if len(names) >= MANY else ", ".join(names)
