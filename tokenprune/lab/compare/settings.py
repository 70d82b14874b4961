"""What a comparison is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune.errors import DataError
from tokenprune.plan import Plan

#: Questions of the built-in comparison: what two cores answer with all plans in a few minutes.
QUESTIONS = 300

#: The same for videos, where a question costs eight pictures and as many times the prompt.
CLIP_QUESTIONS = 40

POSITIONS = ("original", "compact", "both")
TASKS = ("image", "video")


@dataclass(frozen=True)
class Settings:
    """What to compare.

    Attributes:
        plans: name and plan of the user's own; none means every strategy that can run.
        keeps: budgets; none means the built-in ones. Of videos they count per frame.
        limit: samples; default `QUESTIONS` for questions about pictures, `CLIP_QUESTIONS` for
            videos, all for labelled pictures.
        batch_size: samples a batch.
        seed: of the plans, the order of runs and the resampling.
        positions: `original`, `compact` or `both`, for multimodal LLMs.
        new_tokens: tokens generated per question.
        split: for pictures: `all`, `first` or `second`.
        task: `image`, or `video`: then all plans run with `images: frames`.
        jobs: processes among which the plans are divided, each with its share of the threads.
        probe: places at which to measure how much of the encoder's information can still be read,
            see `tokenprune.lab.probe.places.parse_places`; none by default.

    Raises:
        DataError: there is no such task or choice of positions.
    """

    plans: Sequence[tuple[str, Plan]] = ()
    keeps: Sequence[int] = ()
    limit: int | None = None
    batch_size: int = 16
    seed: int = 0
    positions: str = "both"
    new_tokens: int = 2
    split: str = "all"
    task: str = "image"
    jobs: int = 1
    probe: Sequence[str] = ()

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--positions", self.positions, POSITIONS),
            ("--task", self.task, TASKS),
        ):
            if value not in known:
                raise DataError(
                    f"there is no choice '{value}'.",
                    where=option,
                    remedy=f"Use {', '.join(known)}.",
                )

    @property
    def video(self) -> bool:
        """Whether the images of a prompt are the frames of a video."""
        return self.task == "video"
