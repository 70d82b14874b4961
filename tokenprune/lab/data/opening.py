"""Pictures and videos of samples: read, and told apart by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError
from tokenprune.errors.files import reason
from tokenprune.interface.loading import Frames
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.reading import open_picture
from tokenprune.lab.data.videos import Clip


def opened(image: Any) -> Any:
    """A picture, read if it is a file or encoded; several of them as a list, a clip as `Frames`.

    Raises:
        DataError: a file is missing, or no picture or video.
        BackendUnavailableError: a video needs PyAV, which isn't installed.
    """
    if isinstance(image, Clip):
        return Frames(image.pictures())
    if isinstance(image, Frames):
        return image
    if isinstance(image, list | tuple):
        return [opened(one) for one in image]
    if isinstance(image, bytes):
        return open_picture(BytesIO(image))
    return open_picture(image) if isinstance(image, Path) else image


def opened_all(questions: Sequence[Question]) -> list[Any]:
    """The pictures of questions; a video that several of them are about is decoded once.

    Tasks call it batch by batch, so that memory stays small.

    Raises:
        DataError: see `opened`.
        BackendUnavailableError: see `opened`.
    """
    clip = cache(opened)
    images = [question.image for question in questions]
    return [clip(image) if isinstance(image, Clip) else opened(image) for image in images]


def revision(samples: Sequence[Question], choices: Sequence[Sequence[str]] = ()) -> str:
    """SHA-256 of samples and their pictures, and of the texts that answers are chosen from.

    Of videos, the bytes of their files count; nothing is decoded.

    Raises:
        DataError: a file can't be read.
    """
    digest = cache(Clip.digest)  # several questions may be about one video
    total = hashlib.sha256(json.dumps(choices).encode() if choices else b"")
    for sample in samples:
        about = [sample.text, sample.answer, sample.kind, *sample.others]
        total.update(json.dumps(about).encode())
        several = isinstance(sample.image, list | tuple)
        for image in sample.image if several else (sample.image,):
            try:
                total.update(digest(image) if isinstance(image, Clip) else _bytes(image))
            except OSError as error:
                raise DataError(
                    f"the file can't be read ({reason(error)}).", where=sample.where
                ) from error
    return total.hexdigest()


def _bytes(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Path):
        return image.read_bytes()
    # pixels alone don't tell a wide picture from a high one
    return f"{image.mode} {image.size}".encode() + bytes(image.tobytes())
