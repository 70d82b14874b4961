"""PruneVid's formulas as loops over Python lists, from the method's description."""

from __future__ import annotations

import math
from collections import defaultdict

Vector = list[float]
Place = tuple[int, int]  # frame, location


def mean(rows: list[Vector]) -> Vector:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def cosine(x: Vector, y: Vector) -> float:
    norms = math.hypot(*x) * math.hypot(*y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / norms if norms else 0.0


def peaks(points: list[Vector], count: int, k: int) -> tuple[list[int], list[int]]:
    """Centres, ascending, and the centre of every point."""
    every = range(len(points))
    dist = [[math.dist(x, y) / math.sqrt(len(x)) for y in points] for x in points]
    near = [sorted(d * d for d in row)[: min(k, len(points))] for row in dist]
    rho = [math.exp(-sum(row) / len(row)) for row in near]
    delta = []
    for i in every:
        denser = [dist[i][j] for j in every if (-rho[j], j) < (-rho[i], i)]
        delta.append(min(denser) if denser else max(max(row) for row in dist))
    centres = sorted(sorted(every, key=lambda i: (-rho[i] * delta[i], i))[:count])
    nearest = [min(centres, key=lambda c: (dist[c][i], c)) for i in every]
    return centres, [i if i in centres else nearest[i] for i in every]


def runs(labels: list[int | None]) -> list[tuple[int, int]]:
    found, start = [], 0
    for place in range(1, len(labels) + 1):
        if place == len(labels) or labels[place] != labels[start]:
            found.append((start, place))
            start = place
    return found


def contiguous(labels: list[int]) -> list[int]:
    fixed: list[int | None] = list(labels)
    for label in set(labels):
        mine = [run for run in runs(list(labels)) if labels[run[0]] == label]
        longest = max(stop - start for start, stop in mine)
        for start, stop in mine:
            if longest == 1 or stop - start < longest:
                fixed[start:stop] = [None] * (stop - start)
    while None in fixed:
        start = fixed.index(None)
        stop = next((i for i in range(start, len(fixed)) if fixed[i] is not None), len(fixed))
        left, right = 0, 0
        while start - left > 0 and fixed[start - left - 1] == fixed[start - 1]:
            left += 1
        while stop + right < len(fixed) and fixed[stop + right] == fixed[stop]:
            right += 1
        source = None if not left and not right else start - 1 if left >= right else stop
        fixed[start:stop] = [0 if source is None else fixed[source]] * (stop - start)
    return [label for label in fixed if label is not None]


def segments(frames: list[Vector], gamma: float, k: int) -> list[tuple[int, int]]:
    centre = peaks(frames, max(1, int(gamma * len(frames))), k)[1]
    return runs(list(contiguous(centre)))


def split(
    video: dict[Place, Vector], run: tuple[int, int], tau: float
) -> list[tuple[bool, dict[Place, list[Place]]]]:
    """The groups of a segment: is it static, and the tokens behind each of its features."""
    by_location = defaultdict(list)
    for frame, location in sorted(video):
        if run[0] <= frame < run[1]:
            by_location[location].append((frame, location))
    static = {}
    for location, places in by_location.items():
        pairs = [(a, b) for a in places for b in places if a != b]
        if pairs:
            total = sum(cosine(video[a], video[b]) for a, b in pairs)
            if total / len(pairs) >= tau:
                static[location] = places
    made = []
    if static:
        made.append((True, {static[one][0]: static[one] for one in sorted(static)}))
    for frame in range(*run):
        moving = {p: [p] for p in sorted(video) if p[0] == frame and p[1] not in static}
        if moving:
            made.append((False, moving))
    return made


def stage_a(
    video: dict[Place, Vector],
    *,
    gamma: float = 0.25,
    tau: float = 0.8,
    beta: float = 0.5,
    neighbours: int = 7,
    untouched: int = 14,
    scale: str = "rms",
) -> dict[Place, tuple[Vector, set[Place], bool, int]]:
    """What goes on: place, feature, the tokens in it, whether it is static, its segment's start."""
    values = [value for row in video.values() for value in row]
    power = math.sqrt(sum(v * v for v in values) / len(values)) if scale == "rms" else 1.0
    video = {place: [value / power for value in row] for place, row in video.items()}
    frames = sorted({frame for frame, _ in video})
    means = [mean([video[p] for p in sorted(video) if p[0] == frame]) for frame in frames]
    out = {}
    for start, stop in segments(means, gamma, neighbours):
        run = (frames[start], frames[stop - 1] + 1)
        for static, group in split(video, run, tau):
            places = list(group)
            features = [mean([video[p] for p in group[place]]) for place in places]
            few = len(places) <= untouched
            count = len(places) if few else max(1, int(beta * len(places)))
            centres, labels = peaks(features, count, neighbours)
            for centre in centres:
                mine = [places[i] for i, label in enumerate(labels) if label == centre]
                feature = [power * v for v in mean([features[places.index(p)] for p in mine])]
                members = {p for place in mine for p in group[place]}
                out[places[centre]] = (feature, members, static, run[0])
    return out


def stage_b(score: list[float], groups: list[int], alpha: float, floor: int) -> list[int]:
    kept = []
    for number in set(groups):
        mine = [i for i, group in enumerate(groups) if group == number]
        count = max(int(round(alpha * len(mine), 9)), min(floor, len(mine)))
        kept += sorted(mine, key=lambda i: (-score[i], i))[:count]
    return sorted(kept)
