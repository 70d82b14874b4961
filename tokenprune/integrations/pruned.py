"""A tower of an engine's own while it carries a plan: what it tells, and how it ends."""

from __future__ import annotations

from typing import Self

from tokenprune.engine.attachment import Attachment
from tokenprune.engine.call import CallState
from tokenprune.engine.encoder.runner import EncoderRunner
from tokenprune.engine.pre_llm.stages import ImageBatch, count_left, run_stages
from tokenprune.integrations.given import checked_grid
from tokenprune.integrations.static import Selected, left_of
from tokenprune.interface.sites import Grid, Site
from tokenprune.interface.trace import Trace


class PrunedTower:
    """What towers with a plan have in common, whether they pack their pictures or not.

    Args:
        attachment: the attachment, which begins here.
        runner: of the tower, checked against the plan.
        by_frame: whether encoder stages act on each frame of a grid by itself.

    Attributes:
        plan: the plan.
    """

    def __init__(
        self, attachment: Attachment, runner: EncoderRunner, *, by_frame: bool = False
    ) -> None:
        self.plan, self._attachment = attachment.plan, attachment
        self._runner, self._by_frame = runner, by_frame
        self._later = attachment.stages_at("pre_llm")
        self._site = Site.behind(runner.spec.used)
        runner.install(attachment.patches)
        attachment.begin()

    @property
    def trace(self) -> Trace:
        """What was kept in this thread's latest finished `run`; an image a picture or clip."""
        return self._attachment.trace

    @property
    def notes(self) -> list[str]:
        """What to know about the plan on this tower, in plain words."""
        return sorted(self._attachment.notes)

    def count(self, grid: Grid) -> int:
        """Tokens that `run` leaves of a picture or clip.

        Args:
            grid: its patch grid (t, h, w); of a packed tower that of its units, which become
                tokens of the LLM, such as squares of patches.

        Raises:
            DataError: the grid is none.
            BudgetError: a budget can't be reached on it.
        """
        return left_of(
            self._runner.layout, self._later, checked_grid(grid), by_frame=self._by_frame
        )

    def _selected(self, call: CallState, batches: list[ImageBatch]) -> list[Selected]:
        """What the stages behind the tower leave of each of a call's pictures, in order."""
        batches = run_stages(call, self._later, batches, self._site)
        count_left(call, batches)
        found = {
            number: Selected(hidden[None], index[None], size[None])
            for one in batches
            for number, hidden, index, size in zip(
                one.rows, one.hidden, one.state.index, one.state.size, strict=True
            )
        }
        return [found[number] for number in sorted(found)]

    def detach(self) -> None:
        """Give the tower back as it was; calling it twice is harmless."""
        self._attachment.detach()

    def __enter__(self) -> Self:
        self._attachment.require_attached()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()
