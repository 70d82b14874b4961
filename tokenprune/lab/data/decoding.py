"""Single frames of video files, through PyAV.

The packets of a file are read twice. The first time they are only counted; the second time those
are decoded that the chosen frames depend on: from the last key frame before each of them on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import BackendUnavailableError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Number of frames -> numbers of those that are wanted, ascending.
Choose = Callable[[int], Sequence[int]]


@dataclass(frozen=True)
class Packet:
    """One encoded frame, in the order in which they are decoded.

    Attributes:
        time: when it is shown, in units of the stream; None where the file doesn't say.
        key: whether it is decoded without others.
        shown: whether it is shown at all.
    """

    time: int | None
    key: bool
    shown: bool


def check_pyav(where: str = "") -> None:
    """See that PyAV is there.

    Args:
        where: what needs it.

    Raises:
        BackendUnavailableError: it isn't.
    """
    if find_spec("av") is None:
        raise BackendUnavailableError(
            "video files are decoded by PyAV, which isn't installed.",
            where=where,
            remedy="Install it: pip install 'tokenprune[video]'. Animated GIF, WebP and PNG files "
            "and folders of frames do without it.",
        )


def decoded(source: Path | bytes, choose: Choose, where: str = "") -> list[Image]:
    """The wanted frames of the first video stream as RGB, turned upright.

    Args:
        source: the file, or what stands in it.
        choose: which frames, once their number is known.
        where: what errors call it.

    Raises:
        DataError: there is no video stream in it, or it is damaged.
        BackendUnavailableError: PyAV isn't installed.
    """
    check_pyav(where)
    import av

    try:
        packets = _packets(source)
        if _timed(packets):
            return _by_time(source, packets, choose)
        return _by_count(source, choose)
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(f"the video can't be decoded ({reason}).", where=where) from error
    except _NoFramesError as error:
        raise DataError(f"the video can't be decoded ({error}).", where=where) from error


def needed(packets: Sequence[Packet], times: Iterable[int]) -> set[int]:
    """Which packets have to be decoded for the frames that are shown at some times.

    A frame depends on packets in front of its own, back to a key frame that isn't shown after it.
    The first packet of all is decoded, too: only there, some encoders say how they are to be read.

    Args:
        packets: all of the stream.
        times: of packets among them.

    Returns:
        Numbers of packets.
    """
    places = {packet.time: number for number, packet in enumerate(packets)}
    found = {0}
    for time in times:
        first = places[time]
        while first > 0 and not _opens(packets[first], time):
            first -= 1
        found.update(range(first, places[time] + 1))
    return found


def _opens(packet: Packet, time: int) -> bool:
    return packet.key and packet.time is not None and packet.time <= time


class _NoFramesError(Exception):
    """The file opens, but no frames come out."""


def _by_time(source: Path | bytes, packets: Sequence[Packet], choose: Choose) -> list[Image]:
    times = sorted(packet.time for packet in packets if packet.shown and packet.time is not None)
    wanted = [times[number] for number in choose(len(times))] if times else []
    found: dict[int, Image] = {}
    waiting = sorted(set(wanted), reverse=True)
    last = None
    with _opened(source) as (container, stream):
        for frame in _frames(container, stream, needed(packets, waiting)):
            while waiting and waiting[-1] <= frame.pts:
                near = frame if last is None else _nearer(waiting[-1], last, frame)
                found[waiting.pop()] = _picture(near)
            last = frame
        while waiting and last is not None:
            found[waiting.pop()] = _picture(last)
    if not found:
        raise _NoFramesError("no frame of it can be shown")
    return [found[time] for time in wanted]


def _nearer(time: int, before: Any, after: Any) -> Any:
    """Some packets only help to decode others; the frame that is shown next to them is taken."""
    return before if time - before.pts < after.pts - time else after


def _by_count(source: Path | bytes, choose: Choose) -> list[Image]:
    with _opened(source) as (container, stream):
        total = sum(1 for _ in container.decode(stream))
    if not total:
        raise _NoFramesError("it holds no frames")
    wanted = choose(total)
    with _opened(source) as (container, stream):
        frames = enumerate(container.decode(stream))
        found = {number: _picture(frame) for number, frame in frames if number in wanted}
    return [found[number] for number in wanted]


def _frames(container: Any, stream: Any, feed: set[int]) -> Iterator[Any]:
    """What comes out when only some packets are decoded."""
    codec, fed = stream.codec_context, False
    for number, packet in enumerate(_demuxed(container, stream)):
        if number in feed:
            fed = True
            yield from (frame for frame in codec.decode(packet) if frame.pts is not None)
        elif fed:
            fed = False
            yield from (frame for frame in codec.decode(None) if frame.pts is not None)
            codec.flush_buffers()
    if fed:
        yield from (frame for frame in codec.decode(None) if frame.pts is not None)


def _packets(source: Path | bytes) -> list[Packet]:
    with _opened(source) as (container, stream):
        return [
            Packet(packet.pts, packet.is_keyframe, not packet.is_discard)
            for packet in _demuxed(container, stream)
        ]


def _timed(packets: Sequence[Packet]) -> bool:
    """Whether every packet says when it is shown, and no two the same."""
    times = {packet.time for packet in packets}
    return None not in times and len(times) == len(packets)


def _demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """The packets; those that hold nothing only mark the end."""
    return (packet for packet in container.demux(stream) if packet.size)


@contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[Any, Any]]:
    import av

    with av.open(BytesIO(source) if isinstance(source, bytes) else str(source)) as container:
        if not container.streams.video:
            raise _NoFramesError("it holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _picture(frame: Any) -> Image:
    from PIL import Image

    turns = {
        90: Image.Transpose.ROTATE_90,
        180: Image.Transpose.ROTATE_180,
        -180: Image.Transpose.ROTATE_180,
        -90: Image.Transpose.ROTATE_270,
    }
    turn = turns.get(round(frame.rotation))
    picture: Image.Image = frame.to_image()
    return picture if turn is None else picture.transpose(turn)
