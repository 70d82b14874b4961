"""Spreading removals over the blocks of a vision encoder.

The six schedules of EvoPrune (arXiv 2603.03681, sec. 3.2 and app. A). The paper leaves open the
parity of `skip`, the closed form of `increasing` and `decreasing`, and what happens where a
constant number can't be removed because bipartite matching takes at most half of the tokens; what
is done here is ours and said at each function.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from tokenprune.errors import BudgetError, LayerError
from tokenprune.plan.model import ScheduleSpec


def refuse_count(keep: int, count: int, where: str = "") -> None:
    """Refuse to keep less than one of `count` tokens, or more than there are.

    Raises:
        BudgetError: `nearest` is feasible.
    """
    if not 1 <= keep <= count:
        nearest = min(max(keep, 1), count)
        raise BudgetError(
            f"can't keep {keep} of {count} tokens.",
            where=where,
            remedy=f"The nearest feasible value is {nearest}.",
            nearest=nearest,
        )


def removals(
    count: int,
    keep: int,
    layers: int,
    schedule: str | Sequence[int] | ScheduleSpec,
    *,
    first: int = 0,
    last: int | None = None,
    halves: bool,
    where: str = "",
) -> tuple[int, ...]:
    """Tokens to remove in every block, so that exactly `keep` of `count` are left.

    Args:
        count: tokens that arrive.
        keep: tokens that must be left.
        layers: number of blocks that are used.
        schedule: a name, a name with its parameter, or explicit removals for every block of the
            range.
        first: first block of the range.
        last: last block of the range, included; the last used block by default.
        halves: whether a block removes at most half of the tokens present (bipartite matching)
            rather than all but one.
        where: place to name in errors.

    Returns:
        `layers` numbers that sum to `count - keep`, zero outside the range.

    Raises:
        LayerError: the range isn't within the used blocks.
        BudgetError: it can't be reached; `nearest` is the closest feasible value.
    """
    last = layers - 1 if last is None else last
    if not 0 <= first <= last < layers:
        raise LayerError(
            f"blocks {first} to {last} are not all there.",
            where=where,
            remedy=f"The used blocks are 0 to {layers - 1}.",
        )
    refuse_count(keep, count, where)
    length = last - first + 1
    if isinstance(schedule, str | ScheduleSpec):
        spec = _spec(schedule)
        spread = _spread(spec, count, keep, length, halves, where)
    else:
        spread = _explicit(schedule, count, keep, first, length, halves, where)
    return (*[0] * first, *spread, *[0] * (layers - last - 1))


def _spec(schedule: str | ScheduleSpec) -> ScheduleSpec:
    if isinstance(schedule, ScheduleSpec):
        return schedule
    return ScheduleSpec.model_validate({"name": schedule})


def _spread(
    spec: ScheduleSpec, count: int, keep: int, length: int, halves: bool, where: str
) -> list[int]:
    chosen = _blocks(spec, length, where)
    lowest = _lowest(count, len(chosen), halves)
    if keep < lowest:
        raise BudgetError(
            f"'{spec.name}' can't get from {count} to {keep} tokens: each of its {len(chosen)} "
            "blocks removes at most half of the tokens.",
            where=where,
            remedy=f"The nearest feasible value is {lowest}; more blocks reach lower ones.",
            nearest=lowest,
        )
    if spec.name in ("increasing", "decreasing"):
        amounts = _weighted(spec, count, keep, length, halves)
    else:
        amounts = _capped_constant(count, keep, len(chosen), halves)
    spread = [0] * length
    for block, amount in zip(chosen, amounts, strict=True):
        spread[block] = amount
    return spread


def _blocks(spec: ScheduleSpec, length: int, where: str) -> range:
    """Blocks that take part; `skip` starts with the first one, `first`/`last` take half (ours)."""
    if spec.name == "skip":
        return range(0, length, 2)
    if spec.name not in ("first", "last"):
        return range(length)
    number = spec.blocks or max(1, length // 2)
    if number > length:
        raise LayerError(
            f"'{spec.name}' asks for {number} blocks, the range has {length}.",
            where=where,
            remedy=f"Ask for at most {length}.",
        )
    return range(number) if spec.name == "first" else range(length - number, length)


def _lowest(count: int, blocks: int, halves: bool) -> int:
    return -(-count >> blocks) if halves else 1


def _step(present: int, amount: int, keep: int, halves: bool) -> int:
    cap = present // 2 if halves else present - 1
    return min(amount, cap, present - keep)


def _capped_constant(count: int, keep: int, blocks: int, halves: bool) -> list[int]:
    """The same number in every block, as far as caps allow: the smallest one that arrives (ours).

    Where the paper's constant is feasible, this is it, with the remainder taken off at the end.
    """

    def walk(amount: int) -> list[int]:
        taken, present = [], count
        for _ in range(blocks):
            taken.append(_step(present, amount, keep, halves))
            present -= taken[-1]
        return taken

    total = count - keep
    constant = bisect_left(range(total + 1), total, key=lambda amount: sum(walk(amount)))
    return walk(constant)


def _weighted(spec: ScheduleSpec, count: int, keep: int, blocks: int, halves: bool) -> list[int]:
    """Removals in proportion to l^power (l = 1..L, or reversed), rounded by largest remainder.

    The closed form is ours. Where a block can't take its share, the excess moves to the blocks
    after it; what even those can't take, to the blocks before.
    """
    weights = [float(block + 1) ** (spec.power or 1.0) for block in range(blocks)]
    if spec.name == "decreasing":
        weights.reverse()
    ideal = _largest_remainder(weights, count - keep)
    if not halves:
        return ideal
    # tokens left after a block, at most: the blocks after it can halve them down to `keep`
    most = [keep << (blocks - 1 - block) for block in range(blocks)]
    taken, present = [], count
    for removed, upper in zip(accumulate(ideal), most, strict=True):
        left = max(min(count - removed, upper), present - present // 2)
        taken.append(present - left)
        present = left
    return taken


def _largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    whole = sum(weights)
    shares = [total * weight / whole for weight in weights]
    amounts = [int(share) for share in shares]
    by_rest = sorted(range(len(shares)), key=lambda i: (amounts[i] - shares[i], i))
    for block in by_rest[: total - sum(amounts)]:
        amounts[block] += 1
    return amounts


def _explicit(
    amounts: Sequence[int],
    count: int,
    keep: int,
    first: int,
    length: int,
    halves: bool,
    where: str,
) -> list[int]:
    if len(amounts) != length:
        raise BudgetError(
            f"the schedule lists {len(amounts)} blocks, the range has {length}.",
            where=where,
            remedy=f"List {length} numbers, zeros included, or set 'layers'.",
            nearest=length,
        )
    present = count
    for block, amount in enumerate(amounts, start=first):
        feasible = present // 2 if halves else present - 1
        if not 0 <= amount <= feasible:
            nearest = feasible if amount > 0 else 0
            raise BudgetError(
                f"block {block} can't remove {amount} of {present} tokens.",
                where=where,
                remedy=f"The nearest feasible number is {nearest}.",
                nearest=nearest,
            )
        present -= amount
    if present != keep:
        raise BudgetError(
            f"the schedule removes {count - present} of {count} tokens, so {present} are left, "
            f"not {keep}.",
            where=where,
            remedy=f"Set 'keep' to {present} or change the numbers.",
            nearest=present,
        )
    return list(amounts)
