"""The border is what a scan of all numbers finds, and few numbers are asked about."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenprune.lab.measure.search import border, most_asked, widest


@given(st.integers(1, 300), st.integers(0, 301), st.booleans())
def test_a_scan_finds_the_same(high: int, edge: int, smallest: bool) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= edge if smallest else number <= edge

    found = border(holds, 1, high, smallest=smallest)
    holding = [n for n in range(1, high + 1) if (n >= edge if smallest else n <= edge)]
    expected = (min(holding) if smallest else max(holding)) if holding else None
    assert found == expected
    assert len({*asked}) <= most_asked(1, high) <= high.bit_length() + 2


@given(st.lists(st.booleans(), min_size=2, max_size=60), st.booleans())
def test_where_the_condition_changes_often_the_found_number_is_a_border(
    holding: list[bool], smallest: bool
) -> None:
    found = border(lambda n: holding[n], 0, len(holding) - 1, smallest=smallest)
    if found is None:
        assert not (holding[-1] if smallest else holding[0])
        return
    assert holding[found]
    beyond = found - 1 if smallest else found + 1
    assert not 0 <= beyond < len(holding) or not holding[beyond]


@given(st.integers(1, 50), st.integers(0, 30), st.integers(0, 30))
def test_the_range_that_serves(start: int, down: int, up: int) -> None:
    least, most = max(1, start - down), min(60, start + up)
    assert widest(lambda n: least <= n <= most, start, 1, 60) == (least, most)
