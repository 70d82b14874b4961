"""Pictures and videos of samples are opened once before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.pictures import spread
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.videos import Clip

#: Pictures, and videos, that are opened where nothing else is asked for (ours).
CHECKED, CHECKED_CLIPS = 1000, 100

#: Bad samples that the error names.
NAMED = 5


def check_samples(samples: Sequence[Question], amount: int | None = None) -> None:
    """Open pictures and videos, each file once, and name all samples that can't be read.

    Args:
        samples: those of a task.
        amount: how many files are opened, spread evenly over them; 0 for none. Default: `CHECKED`
            pictures or `CHECKED_CLIPS` videos.

    Raises:
        DataError: some can't be read; their places and reasons are in the message.
        BackendUnavailableError: a video needs PyAV, which isn't installed.
    """
    if amount == 0:
        return
    files = [*_files(samples)]
    clips = any(isinstance(image, Clip) for image, _ in files)
    chosen = spread(files, amount or (CHECKED_CLIPS if clips else CHECKED))
    bad = [(where, error) for image, where in chosen if (error := _fault(image)) is not None]
    if not bad:
        return
    named = [f"{where or error.where}: {error.message}" for where, error in bad]
    remedy = (
        "Mend or remove them, or pass --check-data 0 to leave such samples out as they are met."
    )
    if len(bad) == 1:
        where, error = bad[0]
        raise DataError(error.message, where=where or error.where, remedy=remedy) from error
    more = f" and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    raise DataError(
        f"{len(bad)} of {len(chosen)} pictures and videos can't be read: "
        f"{' '.join(named[:NAMED])}{more}",
        remedy=remedy,
    ) from bad[0][1]


def _files(samples: Sequence[Question]) -> Iterator[tuple[Any, str]]:
    """What has to be opened, with the place of the first sample that names it."""
    seen: set[Path | Clip] = set()
    for sample in samples:
        several = isinstance(sample.image, list | tuple)
        for image in sample.image if several else (sample.image,):
            if isinstance(image, bytes):
                yield image, sample.where
            elif isinstance(image, Path | Clip) and image not in seen:
                seen.add(image)
                yield image, sample.where


def _fault(image: Any) -> DataError | None:
    try:
        opened(image)
    except DataError as error:
        return error
    return None
