"""Video files as packets, through PyAV: what is in them, in which order, and what is broken."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

#: The containers that are opened, by FFmpeg's names. Playlists aren't among them: they name other
#: files and addresses, which would be opened too.
CONTAINERS = (
    *("3g2", "3gp", "apng", "asf", "avi", "dv", "flv", "gif", "h264", "hevc", "ivf", "m4a", "m4v"),
    *("matroska", "mj2", "mjpeg", "mov", "mp4", "mpeg", "mpegts", "mpegvideo", "mxf", "nut"),
    *("obu", "ogg", "rm", "webm", "wtv", "yuv4mpegpipe"),
)

#: Of these the packets have numbers in place of times: where frames are decoded in another order
#: than they are shown, the numbers are those of the decoding.
UNTIMED = "avi"

#: Streams of packets of equal length, without anything that says how long the file should be; the
#: lengths that are in use.
TRANSPORT, LENGTHS = "mpegts", (188, 192, 204)

#: How much shorter than its header says a file may be: seconds, and a share (ours).
SLACK, SHARE = 0.25, 0.02

_LOGGING = threading.Lock()
"""FFmpeg's messages are switched on for the whole process."""


class BrokenError(Exception):
    """The file opens, and something in it is missing or damaged."""


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


@dataclass(frozen=True)
class Track:
    """The first video stream of a file.

    Attributes:
        packets: all of them.
        timed: whether every packet says when it is shown, and no two the same.
        open_ended: whether nothing in the file says where it should end.
    """

    packets: tuple[Packet, ...]
    timed: bool
    open_ended: bool


def read_track(source: Path | bytes) -> Track:
    """Read a file's packets once, without decoding them.

    Raises:
        BrokenError: there is no video stream, or parts of it are missing.
        av.FFmpegError: it can't be opened.
    """
    import av

    with _LOGGING:
        before = av.logging.get_level()
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture() as logs, opened_stream(source) as (container, stream):
                packets = [*demuxed(container, stream)]
                form = container.format.name
                _refuse_missing(packets, stream)
                reordered = form == UNTIMED and stream.codec_context.has_b_frames
        finally:
            av.logging.set_level(before)
    said = [text.strip() for _, name, text in logs if name == form]
    if said:
        raise BrokenError(f"it is damaged: {said[0][:200]}")
    if form == TRANSPORT and all(_length(source) % length for length in LENGTHS):
        raise BrokenError("it is damaged: its last packet is cut off")
    found = [Packet(one.pts, one.is_keyframe, not one.is_discard) for one in packets if one.size]
    timed = not reordered and _timed(found)
    return Track(tuple(found), timed, open_ended=form == TRANSPORT)


def demuxed(container: Any, stream: Any) -> Iterator[Any]:
    """The packets; the last one, which only marks the end, is left out."""
    return (packet for packet in container.demux(stream) if packet.size or packet.dts is not None)


@contextmanager
def opened_stream(source: Path | bytes) -> Iterator[tuple[Any, Any]]:
    """A file and its first video stream; a decoder of it raises where its data are damaged.

    Raises:
        BrokenError: there is no video stream.
        av.FFmpegError: it can't be opened, or is of none of `CONTAINERS`.
    """
    import av

    given = BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    with av.open(given, options={"format_whitelist": ",".join(CONTAINERS)}) as container:
        if not container.streams.video:
            raise BrokenError("it holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        # without, what can't be decoded is made up from its neighbours
        stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def _refuse_missing(packets: Sequence[Any], stream: Any) -> None:
    """Compare what came with what the file says of itself.

    Edit lists of MP4 leave packets out on purpose, so there the number of frames says nothing; a
    part that is missing there is an error of the reader's.
    """
    corrupt = sum(packet.is_corrupt for packet in packets)
    if corrupt:
        raise BrokenError(f"it is damaged: {corrupt} of {len(packets)} frames are broken")
    if stream.container.format.name == UNTIMED and stream.frames > len(packets):
        raise BrokenError(f"it is damaged: {len(packets)} of {stream.frames} frames are left")
    promised = _seconds(stream.metadata.get("DURATION", ""))
    times = [one.pts + (one.duration or 0) for one in packets if one.pts is not None]
    found = float(max(times) * stream.time_base) if times else 0.0
    if promised is not None and found < promised - max(SLACK, SHARE * promised):
        raise BrokenError(f"it is damaged: {found:.2f} of {promised:.2f} seconds are left")


def _seconds(text: str) -> float | None:
    """A time such as `00:01:02.500`."""
    parts = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d*)?)", text.strip())
    if parts is None:
        return None
    hours, minutes, seconds = map(float, parts.groups())
    return 3600 * hours + 60 * minutes + seconds


def _timed(packets: Sequence[Packet]) -> bool:
    times = {packet.time for packet in packets}
    return None not in times and len(times) == len(packets)


def _length(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size
