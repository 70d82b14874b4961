"""Videos of the user: files, animated pictures, or pictures in order; decoded when needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tokenprune.errors import DataError
from tokenprune.errors.files import is_file, is_folder
from tokenprune.lab.data.decoding import check_pyav, decoded
from tokenprune.lab.data.folders import pictures_in
from tokenprune.lab.data.reading import as_rgb, open_picture, pillow

if TYPE_CHECKING:
    from PIL.Image import Image

#: A file, or what stands in one.
Encoded = Path | bytes


@dataclass(frozen=True)
class Clip:
    """A video of which a number of frames is looked at.

    Attributes:
        source: a video or an animated picture, or pictures in order.
        frames: how many frames are taken, see `chosen`.
        where: what errors call it.
    """

    source: Encoded | tuple[Encoded, ...]
    frames: int
    where: str = field(default="", compare=False)

    @classmethod
    def of(cls, path: Path, frames: int, where: str = "") -> Clip:
        """The clip of a file, or of the pictures of a folder in natural order.

        Raises:
            DataError: there is nothing of that name, or no picture in the folder.
            BackendUnavailableError: it takes PyAV to decode the file, which isn't installed.
        """
        if is_folder(path):
            pictures = tuple(pictures_in(path))
            if not pictures:
                raise DataError(f"there are no pictures in the folder '{path}'.", where=where)
            return cls(pictures, frames, where)
        if not is_file(path):
            raise DataError(f"there is no video '{str(path)[:400]}'.", where=where)
        return cls(path, frames, where).checked()

    def checked(self) -> Clip:
        """The same clip, if what decodes it is installed.

        Raises:
            BackendUnavailableError: PyAV isn't.
        """
        if not isinstance(self.source, tuple) and not _animated(self.source):
            check_pyav(self.where)
        return self

    def pictures(self) -> list[Image]:
        """The chosen frames as RGB, always `frames` of them; decoded anew at each call.

        Raises:
            DataError: they can't be decoded.
            BackendUnavailableError: PyAV isn't installed.
        """
        if isinstance(self.source, tuple):
            return _of_pictures(self.source, self.frames)
        if _animated(self.source):
            return _of_animation(self.source, self.frames, self.where)
        return decoded(self.source, lambda total: chosen(total, self.frames), self.where)

    def digest(self) -> bytes:
        """SHA-256 of the bytes of the files, undecoded; of several, of their digests in order."""
        if isinstance(self.source, tuple):
            return hashlib.sha256(b"".join(map(_digest, self.source))).digest()
        return _digest(self.source)


def chosen(total: int, frames: int) -> list[int]:
    """Which frames of a video are taken: those at the centres of equal spans.

    The video's `total` frames are divided into `frames` spans of equal length; frame number
    `floor((i + 1/2) * total / frames)` is taken from span `i` (ours). Frames count as the file
    holds them, whatever time each is shown for. Of a video with fewer frames than spans, some are
    taken several times, so that there are always as many as models with a fixed number expect.

    Args:
        total: frames of the video, at least 1.
        frames: how many to take.

    Returns:
        Frame numbers from 0, ascending.
    """
    return [(2 * span + 1) * total // (2 * frames) for span in range(frames)]


def _of_pictures(sources: Sequence[Encoded], frames: int) -> list[Image]:
    numbers = chosen(len(sources), frames)
    pictures = {number: open_picture(_stream(sources[number])) for number in set(numbers)}
    return [pictures[number] for number in numbers]


def _of_animation(source: Encoded, frames: int, where: str) -> list[Image]:
    with pillow(_stream(source), "video", where) as file:
        numbers = chosen(getattr(file, "n_frames", 1), frames)
        pictures = {}
        for number in sorted(set(numbers)):
            file.seek(number)
            pictures[number] = as_rgb(file)
    return [pictures[number] for number in numbers]


def _animated(source: Encoded) -> bool:
    """Whether it is of a format of pictures that can move, by its first bytes."""
    if isinstance(source, bytes):
        head = source[:12]
    else:
        with source.open("rb") as file:
            head = file.read(12)
    riff = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    return riff or head.startswith((b"GIF8", b"\x89PNG\r\n\x1a\n"))


def _digest(source: Encoded) -> bytes:
    if isinstance(source, bytes):
        return hashlib.sha256(source).digest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _stream(source: Encoded) -> Path | BytesIO:
    return BytesIO(source) if isinstance(source, bytes) else source
