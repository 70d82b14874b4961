"""Schedules against the feasibility table of the method notes and against naive loops."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tokenprune.errors import BudgetError, LayerError
from tokenprune.plan import ScheduleSpec
from tokenprune.plan.budget import removals

NAMES = ("mean", "skip", "first", "last", "increasing", "decreasing")


def naive_end(count: int, target: int, constant: int, blocks: int) -> int:
    for _ in range(blocks):
        count -= min(constant, count // 2, count - target)
    return count


@pytest.mark.parametrize(
    ("count", "keep", "layers", "constant"),
    [
        (576, 128, 23, 38),
        (576, 64, 23, 43),
        (576, 32, 23, 47),
        (729, 64, 26, 52),
        (729, 32, 26, 56),
        (729, 16, 26, 61),
    ],
)
def test_smallest_capped_constant(count: int, keep: int, layers: int, constant: int) -> None:
    amounts = removals(count, keep, layers, "skip", halves=True)
    acting = amounts[::2]
    assert set(amounts[1::2]) == {0}
    assert max(acting) == constant
    assert naive_end(count, keep, constant, len(acting)) == keep
    assert naive_end(count, keep, constant - 1, len(acting)) > keep
    present = count
    for amount in acting:
        assert amount == min(constant, present // 2, present - keep)
        present -= amount


def test_where_each_schedule_acts() -> None:
    def acting(schedule: str | ScheduleSpec, **more: int) -> list[int]:
        amounts = removals(100, 40, 7, schedule, halves=False, **more)
        return [block for block, amount in enumerate(amounts) if amount]

    assert acting("mean") == [0, 1, 2, 3, 4, 5, 6]
    assert acting("skip") == [0, 2, 4, 6]
    assert acting("skip", first=1, last=4) == [1, 3]
    assert acting("first") == [0, 1, 2]
    assert acting("last") == [4, 5, 6]
    assert acting(ScheduleSpec(name="last", blocks=2)) == [5, 6]
    assert acting(ScheduleSpec(name="first", blocks=2), first=3) == [3, 4]


def test_weights_follow_the_power() -> None:
    # 60 removals over weights 1, 2, 3 and 1, 4, 9
    assert removals(100, 40, 3, "increasing", halves=False) == (10, 20, 30)
    assert removals(100, 40, 3, "decreasing", halves=False) == (30, 20, 10)
    square = ScheduleSpec(name="increasing", power=2)
    assert removals(100, 30, 3, square, halves=False) == (5, 20, 45)
    # shares 16.67, 33.33, 50: the largest remainder is rounded up
    assert removals(200, 100, 3, "increasing", halves=False) == (17, 33, 50)


def test_excess_goes_to_later_then_to_earlier_blocks() -> None:
    # steep: 67, 3, 0 of 100, but the first block can take 50 at most
    steep = ScheduleSpec(name="decreasing", power=8)
    assert removals(100, 30, 3, steep, halves=False) == (67, 3, 0)
    assert removals(100, 30, 3, steep, halves=True) == (50, 20, 0)
    # increasing wants 14, 28, 42 of 100, but the last block can take 16 at most, 32 the one before
    assert removals(100, 16, 3, "increasing", halves=False) == (14, 28, 42)
    assert removals(100, 16, 3, "increasing", halves=True) == (36, 32, 16)


@given(
    count=st.integers(1, 800),
    keep=st.integers(1, 800),
    layers=st.integers(1, 30),
    name=st.sampled_from(NAMES),
    halves=st.booleans(),
)
def test_exact_and_within_caps(count: int, keep: int, layers: int, name: str, halves: bool) -> None:
    assume(keep <= count)
    try:
        amounts = removals(count, keep, layers, name, halves=halves)
    except BudgetError as error:
        assert halves
        nearest = int(error.nearest or 0)
        assert keep < nearest <= count
        assert sum(removals(count, nearest, layers, name, halves=True)) == count - nearest
        if nearest > keep + 1:
            with pytest.raises(BudgetError):
                removals(count, nearest - 1, layers, name, halves=True)
        return
    assert len(amounts) == layers
    assert sum(amounts) == count - keep
    present = count
    for amount in amounts:
        assert 0 <= amount <= (present // 2 if halves else present - 1)
        present -= amount


@given(count=st.integers(2, 500), layers=st.integers(1, 26), name=st.sampled_from(NAMES))
def test_larger_targets_leave_more_everywhere(count: int, layers: int, name: str) -> None:
    assume(name not in ("increasing", "decreasing"))  # their rounding may move by one
    before: list[int] | None = None
    for keep in range(max(1, count // 3), count + 1, max(1, count // 9)):
        try:
            amounts = removals(count, keep, layers, name, halves=True)
        except BudgetError:
            continue
        left = [count - sum(amounts[: block + 1]) for block in range(layers)]
        if before is not None:
            assert all(now >= then for now, then in zip(left, before, strict=True))
        before = left


@given(count=st.integers(1, 400), keep=st.integers(1, 400), layers=st.integers(1, 12))
def test_monotone_schedules(count: int, keep: int, layers: int) -> None:
    assume(keep <= count)
    rising = removals(count, keep, layers, "increasing", halves=False)
    assert all(b >= a - 1 for a, b in pairwise(rising))
    falling = removals(count, keep, layers, "decreasing", halves=False)
    assert all(abs(a - b) <= 1 for a, b in zip(falling, reversed(rising), strict=True))
    assert all(b <= a + 1 for a, b in pairwise(falling))


@given(
    count=st.integers(2, 300),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=8),
    halves=st.booleans(),
)
def test_explicit_numbers_are_taken_as_they_are(
    count: int, shares: list[float], halves: bool
) -> None:
    amounts, present = [], count
    for share in shares:
        amounts.append(int(share * (present // 2 if halves else present - 1)))
        present -= amounts[-1]
    spread = removals(count, present, len(shares), amounts, halves=halves)
    assert spread == tuple(amounts)


def test_explicit_numbers_that_cannot_be() -> None:
    with pytest.raises(BudgetError, match=r"block 1 can't remove 40 of 70") as caught:
        removals(100, 30, 2, [30, 40], halves=True)
    assert caught.value.nearest == 35
    with pytest.raises(BudgetError, match="so 40 are left, not 50") as caught:
        removals(100, 50, 2, [30, 30], halves=True)
    assert caught.value.nearest == 40
    with pytest.raises(BudgetError, match="lists 3 blocks, the range has 2"):
        removals(100, 50, 2, [30, 20, 0], halves=True)
    with pytest.raises(BudgetError, match=r"block 4 can't remove 9"):
        removals(9, 1, 6, [0, 9], first=3, last=4, halves=False)


def test_infeasible_names_the_nearest() -> None:
    with pytest.raises(BudgetError, match="nearest feasible value is 72") as caught:
        removals(576, 40, 3, "mean", halves=True, where="stages.0")
    assert caught.value.nearest == 72
    assert caught.value.where == "stages.0"
    with pytest.raises(BudgetError) as caught:
        removals(10, 11, 3, "mean", halves=True)
    assert caught.value.nearest == 10


def test_ranges_that_are_not_there() -> None:
    for first, last in ((0, 7), (3, 2), (-1, 2)):
        with pytest.raises(LayerError, match="0 to 6"):
            removals(100, 50, 7, "mean", first=first, last=last, halves=True)
    with pytest.raises(LayerError, match="at most 4"):
        removals(100, 50, 7, ScheduleSpec(name="first", blocks=5), last=3, halves=True)
