"""What a comparison is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenprune.errors import DataError
from tokenprune.lab.compare.chosen import FAMILIES
from tokenprune.lab.compare.matching import MATCHES
from tokenprune.lab.data.builtin import BUILT_IN
from tokenprune.plan import Plan

POSITIONS = ("original", "compact", "both")


@dataclass(frozen=True)
class Settings:
    """What to compare.

    Attributes:
        plans: name and plan of the user's own; none means every strategy that can run.
        keeps: budgets; none means the built-in ones. Of videos they count per frame.
        limit: samples; default as the built-in task says, all for labelled pictures.
        batch_size: samples a batch.
        seed: of the plans, the order of runs and the resampling.
        positions: `original`, `compact` or `both`, for multimodal LLMs.
        new_tokens: tokens generated per question.
        split: for pictures: `all`, `first` or `second`.
        task: `image`, the small model's pictures; `detail`, with more and smaller things to see;
            or `video`: then all plans run as `on_clips` says.
        jobs: processes among which the plans are divided, each with its share of the threads.
        probe: places at which to measure how much of the encoder's information can still be read,
            see `tokenprune.lab.probe.places.parse_places`; none by default.
        every: whether all strategies are compared, not only a chosen dozen.
        family: the one of `chosen.FAMILIES` that is compared instead of the dozen.
        match: what budgets are made equal in, see `matching.MATCHES`; `stage` leaves to every
            strategy's stage what its budget counts.
        check: pictures that are opened before anything runs, see `check_samples`.
        frames: of each video of the user's own questions; None: they are about pictures.

    Raises:
        DataError: there is no such choice, or one that would be ignored.
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
    every: bool = False
    family: str | None = None
    match: str = "tokens"
    check: int | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--positions", self.positions, POSITIONS),
            ("--task", self.task, tuple(BUILT_IN)),
            ("--match", self.match, tuple(MATCHES)),
            ("--family", self.family, (None, *FAMILIES)),
        ):
            if value not in known:
                raise DataError(
                    f"there is no choice '{value}'.",
                    where=option,
                    remedy=f"Use {', '.join(filter(None, known))}.",
                )
        self._check_selection()

    def _check_selection(self) -> None:
        given = {"--all": self.every, "--family": self.family is not None}
        chosen = [option for option, there in given.items() if there]
        if len(chosen) > 1:
            raise DataError(
                "all strategies are more than a family.",
                where=" and ".join(chosen),
                remedy="Leave one of them away.",
            )
        if chosen and self.plans:
            raise DataError(
                "plans of your own say what is compared.",
                where=f"--plans and {chosen[0]}",
                remedy="Leave one of them away.",
            )

    @property
    def video(self) -> bool:
        """Whether questions are about clips."""
        return self.task == "video" or self.frames is not None
