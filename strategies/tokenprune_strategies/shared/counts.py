"""Numbers of tokens that several groups are left."""

from __future__ import annotations


def fitted(counts: list[int], most: int) -> list[int]:
    """Counts whose sum is no larger than a budget: the largest give one after another (ours)."""
    counts = list(counts)
    while sum(counts) > most:
        counts[max(range(len(counts)), key=lambda n: (counts[n], n))] -= 1
    return counts
