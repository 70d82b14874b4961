"""What becomes of budgets that a schedule can't reach, if nobody says so: a hypothesis, measured.

A merging step removes at most half of its tokens. tokenprune spreads what is over to other blocks,
so that the plan's count holds, or refuses the plan. Code after ToMe takes `min(r, T / 2)` at every
step and goes on, so that more tokens are left than were asked for. EvoPrune's paper (arXiv
2603.03681) doesn't say what its code does. `python -m benchmarks.reproduction` measures what its
order of schedules would be under such a cap; nothing here says that the paper used one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.variants import Stage
from tokenprune.plan.schedule import removals

#: The plan's schedules by the names of `benchmarks.paper_evoprune`.
SCHEDULES = {
    "evoprune": "skip",
    **{name: name for name in ("mean", "first", "last", "increasing", "decreasing")},
}
#: Tokens that are asked for: the budget of `reproduction.KEEPS` that most schedules can't reach.
TARGETS = (8,)


@dataclass(frozen=True)
class Encoder:
    """An encoder as schedules see it.

    Attributes:
        patches: tokens of an image.
        blocks: those that feed what is read.
    """

    patches: int
    blocks: int


#: SigLIP as in the paper's model: 27 blocks, the last but one is read.
PAPER = Encoder(729, 26)
PAPER_TARGETS = (64, 32, 16)


def silently_capped(encoder: Encoder, target: int, schedule: str) -> tuple[int, ...]:
    """Removals of every block: those of an encoder without the limit, each cut to half of T."""
    wanted = removals(encoder.patches, target, encoder.blocks, schedule, halves=False)
    found, present = [], encoder.patches
    for amount in wanted:
        found.append(min(amount, present // 2))
        present -= found[-1]
    return tuple(found)


def left(encoder: Encoder, amounts: Sequence[int]) -> int:
    """Tokens behind the last block."""
    return encoder.patches - sum(amounts)


def capped_stages(encoder: Encoder, target: int) -> dict[str, Stage]:
    """An explicit stage for every schedule, with the count that is really left."""
    found: dict[str, Stage] = {}
    for name, schedule in SCHEDULES.items():
        amounts = silently_capped(encoder, target, schedule)
        keep = left(encoder, amounts)
        found[name] = {"strategy": "evoprune", "schedule": [*amounts], "keep": keep}
    return found


def in_the_paper() -> dict[str, dict[str, int]]:
    """What the cap would leave of the paper's 729 patches, by schedule and target: arithmetic."""
    return {
        name: {
            str(target): left(PAPER, silently_capped(PAPER, target, schedule))
            for target in PAPER_TARGETS
        }
        for name, schedule in SCHEDULES.items()
    }
