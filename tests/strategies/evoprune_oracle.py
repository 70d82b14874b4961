"""EvoPrune and ToMe in plain loops over Python floats, written from the papers' formulas."""

from __future__ import annotations

import math

from tests.strategies.cases import cosine

Vectors = list[list[float]]
Pair = tuple[int, int]


def protected(importance: list[float], remove: int, ratio: float) -> set[int]:
    count = len(importance)
    number = max(0, math.floor(min(ratio * count, count - 2 * remove)))
    ranked = sorted(range(count), key=lambda i: (-importance[i], i))
    return set(ranked[:number])


def unit(x: list[float]) -> list[float]:
    norm = math.hypot(*x)
    return [v / norm for v in x] if norm else x


def density(x: Vectors, neighbours: int, tau: float | None) -> list[float]:
    units = [unit(v) for v in x]
    nearest: list[list[float]] = []
    for i, v in enumerate(units):
        others = [math.dist(v, w) ** 2 for j, w in enumerate(units) if j != i]
        nearest.append(sorted(others)[:neighbours])
    flat = [d for row in nearest for d in row]
    width = tau**2 if tau is not None else max(sum(flat) / len(flat), 1e-12)
    return [1 - sum(math.exp(-d / width) for d in row) / len(row) for row in nearest]


def scores(x: Vectors, d: list[float], weight: float, squash: bool) -> Vectors:
    table = []
    for i in range(len(x)):
        row = []
        for j in range(len(x)):
            sim = cosine(x[i], x[j])
            sim = (1 + sim) / 2 if squash else sim
            row.append(sim * math.exp(-weight * (d[i] + d[j])))
        table.append(row)
    return table


def proposals(score: Vectors, a: list[int], b: list[int]) -> list[tuple[float, int, int]]:
    """Every token of `a` with its best partner, best proposals first, ties to the lower index."""
    made = [max((score[i][j], -j, i) for j in b) for i in a if b]
    return sorted(((s, i, -j) for s, j, i in made), key=lambda p: (-p[0], p[1]))


def pairs(x: Vectors, score: Vectors, kept: set[int], remove: int, partition: str) -> list[Pair]:
    everything = list(range(len(x)))
    if partition == "unprotected":
        free = [i for i in everything if i not in kept]
        return [(i, j) for _, i, j in proposals(score, free[0::2], free[1::2])[:remove]]
    a, b = everything[0::2], everything[1::2]
    free_a, free_b = [i for i in a if i not in kept], [j for j in b if j not in kept]
    literal = proposals(score, free_a, free_b)[:remove]
    used = {i for _, i, _ in literal}
    rest = [p for p in proposals(score, a, b) if p[1] not in used]
    return [(i, j) for _, i, j in literal + rest[: remove - len(literal)]]


def first_best(score: Vectors, sources: list[int], options: list[int]) -> list[Pair]:
    """Best pair of every source, best first; of equal options the first."""
    made = [(i, max(options, key=score[i].__getitem__)) for i in sources if options]
    return sorted(made, key=lambda pair: (-score[pair[0]][pair[1]], pair[0]))


def temporal_pairs(
    x: list[Vectors], d: Vectors, kept: list[set[int]], remove: int, partition: str,
    weight: float, squash: bool,
) -> list[Pair]:  # fmt: skip
    """Pairs of a video of frames `x`; token n of frame t has number t * N + n.

    Sources of a frame choose among the targets of it, of the frame before and of the frame after.
    """
    count, found = len(x[0]), []
    score = scores([v for frame in x for v in frame], [v for f in d for v in f], weight, squash)
    blocked = {t * count + n for t, tokens in enumerate(kept) for n in tokens}
    halves = []
    for t in range(len(x)):
        places = list(range(t * count, (t + 1) * count))
        if partition == "unprotected":
            places = [i for i in places if i not in blocked]
        halves.append((places[0::2], places[1::2]))
    for t in range(len(x)):
        near = [u for u in (t, t - 1, t + 1) if 0 <= u < len(x)]  # own targets win ties
        sources, options = halves[t][0], [j for u in near for j in halves[u][1]]
        free = [i for i in sources if i not in blocked]
        literal = first_best(score, free, [j for j in options if j not in blocked])[:remove]
        used = {i for i, _ in literal}
        rest = [pair for pair in first_best(score, sources, options) if pair[0] not in used]
        found += literal + rest[: remove - len(literal)]
    return found


def merged(x: Vectors, size: list[float], chosen: list[Pair]) -> tuple[Vectors, list[float]]:
    """Size-weighted means in raster order of the survivors, and their sizes."""
    sums = [[s * v for v in row] for row, s in zip(x, size, strict=True)]
    total = list(size)
    for i, j in chosen:
        sums[j] = [u + v for u, v in zip(sums[j], sums[i], strict=True)]
        total[j] += total[i]
    stay = [i for i in range(len(x)) if i not in {source for source, _ in chosen}]
    return [[v / total[i] for v in sums[i]] for i in stay], [total[i] for i in stay]
