"""Single frames of video files, through PyAV.

The packets of a file are read twice. The first time they are only counted; the second time those
are decoded that the chosen frames depend on: from the last key frame before each of them on. Some
key frames are none, because what follows them also refers to what was before; then all packets are
decoded. Where that doesn't give exactly the chosen frames either, frames are counted as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.errors.installing import pip_install
from tokenprune.errors.words import first_line
from tokenprune.lab.data.containers import (
    BrokenError,
    Packet,
    Track,
    demuxed,
    opened_stream,
    read_track,
)

if TYPE_CHECKING:
    from PIL.Image import Image

#: Number of frames -> numbers of those that are wanted, ascending.
Choose = Callable[[int], Sequence[int]]


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
            remedy=f"Install it: {pip_install('video')}. Animated GIF, WebP and PNG files "
            "and folders of frames do without it.",
        )


def decoded(source: Path | bytes, choose: Choose, where: str = "") -> list[Image]:
    """The wanted frames of the first video stream as RGB, turned upright.

    Frames are numbered in the order in which they are shown.

    Args:
        source: the file, or what stands in it.
        choose: which frames, once their number is known.
        where: what errors call it.

    Raises:
        DataError: there is no video stream in it, or it is damaged, or parts of it are missing.
        BackendUnavailableError: PyAV isn't installed.
    """
    check_pyav(where)
    import av

    try:
        track = read_track(source)
        found = _by_time(source, track, choose) if track.timed else None
        return _by_count(source, choose) if found is None else found
    except MemoryError:
        raise
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        if isinstance(error, av.error.InvalidDataError):
            reason = f"it is damaged, or no video: {reason}"
        raise DataError(f"the video can't be decoded ({reason}).", where=where) from error
    except Exception as error:  # PyAV stumbles over odd metadata with errors of many kinds
        raise DataError(
            f"the video can't be decoded ({first_line(error)}).", where=where
        ) from error


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


def _by_time(source: Path | bytes, track: Track, choose: Choose) -> list[Image] | None:
    """The chosen frames; None where packets and frames don't match one to one."""
    import av

    times = sorted(one.time for one in track.packets if one.shown and one.time is not None)
    if not times:
        return None
    wanted = [times[number] for number in choose(len(times))]
    # a file that may be cut anywhere is decoded at its end, where that would be seen
    looked = {*wanted, *times[-1:]} if track.open_ended else {*wanted}
    try:
        found = _shown_at(source, looked, needed(track.packets, looked))
    except (av.error.InvalidDataError, BrokenError):
        found = _shown_at(source, looked, range(len(track.packets)))
    return [found[time] for time in wanted] if found.keys() >= looked else None


def _shown_at(
    source: Path | bytes, times: Container[int], feed: Container[int]
) -> dict[int, Image]:
    """Frames by the times at which they are shown; none where they don't come in that order.

    Args:
        source: the file.
        times: those that are wanted.
        feed: numbers of the packets that are decoded.
    """
    found: dict[int, Image] = {}
    with opened_stream(source) as (container, stream):
        for run in _runs(container, stream, feed):
            last = None
            for frame in run:
                if last is not None and frame.pts <= last:
                    return {}
                last = frame.pts
                if last in times:
                    _refuse_corrupt(frame)
                    found[last] = _picture(frame)
    return found


def _by_count(source: Path | bytes, choose: Choose) -> list[Image]:
    """The same by decoding everything: once to count the frames, once to take some."""
    with opened_stream(source) as (container, stream):
        total = sum(1 for _ in _whole(container, stream))
    if not total:
        raise BrokenError("it holds no frames")
    wanted = choose(total)
    with opened_stream(source) as (container, stream):
        frames = enumerate(_whole(container, stream))
        found = {number: _picture(frame) for number, frame in frames if number in wanted}
    return [found[number] for number in wanted]


def _whole(container: Any, stream: Any) -> Iterator[Any]:
    for frame in container.decode(stream):
        _refuse_corrupt(frame)
        yield frame


def _refuse_corrupt(frame: Any) -> None:
    if frame.is_corrupt:
        raise BrokenError("it is damaged: a frame of it is broken")


def _runs(container: Any, stream: Any, feed: Container[int]) -> Iterator[Iterator[Any]]:
    """What comes out when only some packets are decoded, for every run of neighbours among them."""
    packets = (packet for packet in demuxed(container, stream) if packet.size)
    for fed, run in groupby(enumerate(packets), key=lambda pair: pair[0] in feed):
        if fed:
            yield _frames(stream.codec_context, (packet for _, packet in run))
            stream.codec_context.flush_buffers()


def _frames(codec: Any, packets: Iterable[Any]) -> Iterator[Any]:
    for packet in chain(packets, [None]):  # None: what the decoder still holds
        yield from (frame for frame in codec.decode(packet) if frame.pts is not None)


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
