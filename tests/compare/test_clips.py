"""Frames of the user's videos: which are taken, and that those come out."""

from __future__ import annotations

import hashlib
import shutil
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.compare import clips
from tokenprune.errors import BackendUnavailableError, DataError
from tokenprune.lab.data import decoding
from tokenprune.lab.data.containers import Packet
from tokenprune.lab.data.decoding import decoded, needed
from tokenprune.lab.data.videos import Clip, chosen

pyav = pytest.mark.skipif(find_spec("av") is None, reason="the extra 'video' isn't installed")

#: What containers and codecs do differently: times, key frames, order of decoding.
ENCODED = [
    ("a.mp4", "mpeg4", 5, 0),
    ("a.avi", "mpeg4", 6, 2),
    ("a.mkv", "libx264", 7, 3),
    ("a.mp4", "libx264", 30, 2),
    ("a.ts", "libx264", 4, 2),
    ("a.webm", "libvpx-vp9", 6, 0),
    ("a.mkv", "ffv1", 1, 0),
]


@given(st.integers(1, 5000), st.integers(1, 200))
def test_the_centres_of_equal_spans_are_taken(total: int, frames: int) -> None:
    numbers = chosen(total, frames)
    assert len(numbers) == frames
    for span, number in enumerate(numbers):
        # the centre of the span, (span + 1/2) * total / frames, lies in the frame's own [n, n + 1)
        assert 2 * frames * number <= (2 * span + 1) * total < 2 * frames * (number + 1)
    if total >= frames:
        assert all(one < after for one, after in pairwise(numbers))


@pytest.mark.parametrize(
    ("total", "frames", "numbers"),
    [
        (16, 4, [2, 6, 10, 14]),
        (10, 3, [1, 5, 8]),
        (7, 1, [3]),
        (4, 4, [0, 1, 2, 3]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
        (1, 2, [0, 0]),
    ],
)
def test_chosen_frames(total: int, frames: int, numbers: list[int]) -> None:
    assert chosen(total, frames) == numbers


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
@pytest.mark.parametrize("frames", [1, 4, 30])
def test_animated_pictures_without_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, frames: int
) -> None:
    monkeypatch.setattr(decoding, "find_spec", lambda _: None)
    path = clips.save_animation(tmp_path / f"a.{ending}", 20)
    wanted = chosen(20, frames)
    assert [clips.number_of(one) for one in Clip.of(path, frames).pictures()] == wanted
    # the first bytes count, not the name
    inside = Clip(path.read_bytes(), frames)
    assert [clips.number_of(one) for one in inside.pictures()] == wanted


def test_a_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    folder = clips.save_frames(tmp_path / "clip", 12)
    (folder / "notes.txt").touch()
    pictures = Clip.of(folder, 4).pictures()
    assert [clips.number_of(one) for one in pictures] == chosen(12, 4) == [1, 4, 7, 10]


@pyav
@pytest.mark.parametrize(("name", "codec", "gop", "b"), ENCODED)
def test_video_files_of_many_kinds(tmp_path: Path, name: str, codec: str, gop: int, b: int) -> None:
    path = clips.save_video(tmp_path / name, 24, codec, gop, b)
    for frames in (1, 3, 8, 24, 30):
        pictures = Clip.of(path, frames).pictures()
        assert [clips.number_of(one) for one in pictures] == chosen(24, frames)
    for number in range(24):
        (one,) = decoded(path.read_bytes(), lambda _, n=number: [n])  # type: ignore[misc]
        assert (one.size, clips.number_of(one)) == (clips.SIZE, number)


@pyav
def test_a_frame_that_is_jumped_to_is_that_of_a_whole_pass(tmp_path: Path) -> None:
    import av

    path = clips.save_video(tmp_path / "a.mkv", 30, "libx264", 6, 2)
    with av.open(str(path)) as container:
        whole = [one.to_image().tobytes() for one in container.decode(video=0)]
    assert [decoded(path, lambda _, n=n: [n])[0].tobytes() for n in range(30)] == whole  # type: ignore[misc]


@pyav
def test_a_recording_held_upright_comes_out_upright(tmp_path: Path) -> None:
    path = clips.save_video(tmp_path / "a.mp4", 4)
    data = bytearray(path.read_bytes())
    # ISO 14496-12, 8.3.2: the matrix of a track's header, here turned by 90 degrees
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    (one,) = Clip(bytes(data), 1).pictures()
    assert one.size == clips.SIZE[::-1]


@pyav
def test_files_without_times_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_by_time", lambda *_: None)
    path = clips.save_video(tmp_path / "a.mp4", 10)
    pictures = Clip.of(path, 4).pictures()
    assert [clips.number_of(one) for one in pictures] == chosen(10, 4)


def test_packets_back_to_a_key_frame_are_needed() -> None:
    # shown at 0 2 1 | 5 3 4 6 | 7: the second key frame opens for 5 and later, not for 3 and 4
    times, keys = (0, 2, 1, 5, 3, 4, 6, 7), (0, 5, 7)
    packets = [Packet(time, time in keys, True) for time in times]
    assert needed(packets, [1]) == {0, 1, 2}
    assert needed(packets, [6]) == {0, 3, 4, 5, 6}
    assert needed(packets, [4]) == {0, 1, 2, 3, 4, 5}
    assert needed(packets, [7]) == {0, 7}


def test_the_digest_is_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video, and never decoded")
    monkeypatch.setattr(decoding, "find_spec", lambda _: object())
    one = Clip.of(path, 4)
    assert one.digest() == hashlib.sha256(path.read_bytes()).digest()
    assert one.digest() == Clip(path.read_bytes(), 8).digest()
    folder = clips.save_frames(tmp_path / "clip", 3)
    before = Clip.of(folder, 2).digest()
    shutil.copy(folder / "f0.png", folder / "f1.png")
    assert Clip.of(folder, 2).digest() != before


@pyav
@pytest.mark.parametrize("damage", ["text", "cut", "sound"])
def test_what_is_no_video_is_said(tmp_path: Path, damage: str) -> None:
    path = clips.save_video(tmp_path / "a.mp4", 10)
    if damage == "sound":
        import wave

        with wave.open(str(path), "wb") as sound:
            sound.setparams((1, 2, 8000, 0, "NONE", ""))
            sound.writeframes(b"\0\0" * 800)
    else:
        path.write_bytes(b"words" * 99 if damage == "text" else path.read_bytes()[:600])
    with pytest.raises(DataError, match="can't be decoded") as caught:
        Clip.of(path, 2, "asked.jsonl:3").pictures()
    assert caught.value.where == "asked.jsonl:3"


def test_damaged_animations_are_refused(tmp_path: Path) -> None:
    path = clips.save_animation(tmp_path / "a.gif", 6)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(DataError, match="can't be read"):
        Clip.of(path, 2).pictures()


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "find_spec", lambda _: None)
    (tmp_path / "a.mp4").write_bytes(b"whatever")
    with pytest.raises(BackendUnavailableError, match=r"\.\[video\]") as caught:
        Clip.of(tmp_path / "a.mp4", 2, "asked.jsonl:1")
    assert caught.value.where == "asked.jsonl:1"


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no video"):
        Clip.of(tmp_path / "a.mp4", 2)
    with pytest.raises(DataError, match="no pictures in the folder"):
        Clip.of(tmp_path, 2)
