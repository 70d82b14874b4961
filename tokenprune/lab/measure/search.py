"""The border between budgets that hold and budgets that don't, by bisection."""

from __future__ import annotations

from collections.abc import Callable


def border(holds: Callable[[int], bool], low: int, high: int, *, smallest: bool) -> int | None:
    """The last number on the holding side, if the condition changes once between two numbers.

    Where it changes several times, as measured accuracies may, one of the borders is found: the
    number returned holds, and the next one beyond it doesn't.

    Args:
        holds: the condition; asked about twice the logarithm of the range at most.
        low: the least number.
        high: the greatest.
        smallest: whether greater numbers hold and the least of them is looked for; else smaller
            numbers hold and the greatest of them is.

    Returns:
        The number; None if the end that should hold doesn't.
    """
    good, bad = (high, low) if smallest else (low, high)
    if not holds(good):
        return None
    if good == bad or holds(bad):
        return bad
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def most_asked(low: int, high: int) -> int:
    """How many numbers `border` asks about at most.

    Args:
        low: the least number.
        high: the greatest.
    """
    return 1 if low == high else 2 + (high - low - 1).bit_length()


def widest(serves: Callable[[int], bool], start: int, low: int, high: int) -> tuple[int, int]:
    """The range of numbers around `start`, between `low` and `high`, that all serve.

    Args:
        serves: true at `start`, and false from some number on in either direction, if at all.
        start: a number that serves.
        low: the least number that can.
        high: the greatest.
    """
    least = border(serves, low, start, smallest=True)
    most = border(serves, start, max(start, high), smallest=False)
    assert least is not None, "the start serves"
    assert most is not None, "the start serves"
    return least, most
