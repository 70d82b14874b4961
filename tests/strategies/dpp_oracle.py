"""The greedy choice of a determinantal point process, with a determinant for every candidate."""

from __future__ import annotations

import torch

NARROW = 1e-5
"""Of closer decisions float32 may see the other one as the better."""


def greedy_by_loops(kernel: list[list[float]], keep: int) -> tuple[list[int], float]:
    """Picks by the largest determinant, and how close the closest decision was."""
    matrix = torch.tensor(kernel, dtype=torch.float64)
    chosen: list[int] = []
    margin = volume = 1.0
    for _ in range(keep):
        found = []
        for token in range(len(kernel)):
            if token not in chosen:
                some = [*chosen, token]
                found.append((-float(torch.linalg.det(matrix[some][:, some])) / volume, token))
        found.sort()
        if -found[0][0] < NARROW:  # all that is left is spanned already
            return sorted(chosen), 0.0
        if len(found) > 1:
            margin = min(margin, abs(found[1][0] - found[0][0]))
        volume = -found[0][0] * volume
        chosen.append(found[0][1])
    return sorted(chosen), margin
