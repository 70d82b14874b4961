"""Frames by the time at which they are shown, or a video that is said to be damaged."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.compare.test_clips import pyav
from tokenprune.errors import DataError
from tokenprune.lab.data.videos import Clip, chosen

pytestmark = pyav

FRAMES, SIZE = 40, (96, 64)
OPEN_GOP = "open-gop=1:bframes=3:keyint=10:b-adapt=0"


def save(path: Path, codec: str = "libx264", **options: str) -> Path:
    """Noise that can't be packed, so that damage hits frames, with a level of its own a frame."""
    import av

    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size, stream.bit_rate = "yuv420p", 10, 4_000_000
        for number in range(FRAMES):
            values = rng.integers(0, 60, (SIZE[1], SIZE[0], 3)) + 4 * number
            picture = av.VideoFrame.from_ndarray(values.astype(np.uint8), format="rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.avi", "libx264", {"bf": "3"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
        ("a.nut", "mpeg4", {"bf": "2"}),
        ("a.mkv", "libx264", {"x264-params": OPEN_GOP}),
        ("a.ts", "libx264", {"x264-params": OPEN_GOP}),
        ("a.flv", "libx264", {"bf": "3"}),
        ("a.h264", "libx264", {"bf": "3"}),
        ("a.mpg", "mpeg2video", {"bf": "2"}),
        ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.wmv", "wmv2", {}),
    ],
)
def test_frames_are_those_of_a_whole_pass(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    import av

    path = save(tmp_path / name, codec, **options)
    with av.open(str(path)) as container:
        whole = [one.to_image().tobytes() for one in container.decode(video=0)]
    assert len(whole) == FRAMES
    for frames in (3, 8):
        found = [whole.index(one.tobytes()) for one in Clip.of(path, frames).pictures()]
        assert found == chosen(FRAMES, frames)


def broken(data: bytes, *, at: float, length: int) -> bytes:
    changed, start = bytearray(data), int(at * len(data))
    changed[start : start + length] = bytes(one ^ 0x5A for one in data[start : start + length])
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        # a whole group of pictures and more: damage in frames that aren't asked for is not seen
        ("a.mkv", lambda data: broken(data, at=0.4, length=len(data) // 3)),
        ("a.mkv", lambda data: data[: len(data) * 2 // 3]),
        ("a.avi", lambda data: data[: len(data) * 2 // 3]),
        ("a.mp4", lambda data: data[: len(data) * 2 // 3]),
        ("a.ts", lambda data: broken(data, at=0.5, length=4000)),
        ("a.ts", lambda data: data[: 188 * 50] + data[188 * 90 :]),
        ("a.ts", lambda data: data[: len(data) // 188 // 2 * 188 + 100]),
    ],
)
def test_damaged_files_are_said_to_be_damaged(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    path = save(tmp_path / name, bf="2")
    assert len(Clip.of(path, 5).pictures()) == 5
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"damaged|can't be decoded") as caught:
        Clip.of(path, 5, "q.jsonl:4").pictures()
    assert caught.value.where == "q.jsonl:4"


def test_data_that_cannot_be_decoded_are_not_made_up(tmp_path: Path) -> None:
    """Without being told to, decoders fill what is broken with its neighbours."""
    path = save(tmp_path / "a.mp4")
    path.write_bytes(broken(path.read_bytes(), at=0.4, length=2000))
    with pytest.raises(DataError, match="damaged"):
        Clip.of(path, FRAMES).pictures()


def test_playlists_are_not_opened(tmp_path: Path) -> None:
    part = save(tmp_path / "a.ts")
    (tmp_path / "a.m3u8").write_text(f"#EXTM3U\n#EXTINF:2,\n{part.name}\n#EXT-X-ENDLIST\n")
    (tmp_path / "a.ffconcat").write_text(f"ffconcat version 1.0\nfile {part.name}\n")
    for name in ("a.m3u8", "a.ffconcat"):
        with pytest.raises(DataError, match="can't be decoded"):
            Clip.of(tmp_path / name, 2).pictures()


@pytest.mark.parametrize("text", ["<svg/>", "<svg xmlns='http://www.w3.org/2000/svg'/>", "GIF", ""])
def test_text_is_no_video(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(DataError):
        Clip.of(tmp_path / "a.mp4", 2).pictures()
