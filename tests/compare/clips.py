"""Videos that tests make: every frame has a grey level of its own."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from PIL import Image

#: Between the grey levels of neighbouring frames.
STEP = 8
SIZE = (64, 48)


def frame(number: int) -> Image.Image:
    return Image.new("RGB", SIZE, (STEP * number,) * 3)


def number_of(picture: Image.Image) -> int:
    """Which frame it is."""
    level = picture.convert("L").getpixel((SIZE[0] // 2, SIZE[1] // 2))
    assert isinstance(level, int)
    return round(level / STEP)


def save_animation(path: Path, count: int) -> Path:
    """A GIF, WebP or PNG by the ending of its name."""
    first, *rest = [frame(number) for number in range(count)]
    first.save(path, save_all=True, append_images=rest, duration=40, lossless=True, disposal=1)
    return path


def save_frames(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        frame(number).save(folder / f"f{number}.png")
    return folder


def save_video(path: Path, count: int, codec: str = "mpeg4", gop: int = 5, b: int = 0) -> Path:
    """A video file by the ending of its name; key frames are `gop` apart."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.max_b_frames = b
        stream.bit_rate = 2_000_000
        if codec == "libx264":
            stream.options = {"sc_threshold": "0", "preset": "ultrafast", "bf": str(b)}
        for number in range(count):
            image = av.VideoFrame.from_image(frame(number))
            image.pts, image.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path
