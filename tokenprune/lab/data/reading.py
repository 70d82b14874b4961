"""The one reader of pictures: formats, sizes, orientation, and how numbers become 8-bit RGB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenprune.errors import DataError
from tokenprune.errors.files import PICTURE_BYTES, check_file, reason

if TYPE_CHECKING:
    from PIL.Image import Image

#: The formats that are read, with the endings of their files. Other formats are refused.
FORMATS = {
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (),  # JPEG files of cameras and phones with further pictures behind the first
    "PNG": (".png",),
    "PPM": (".pgm", ".ppm"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}

#: Endings of files that count as pictures; what else lies in a folder is passed over.
PICTURES = frozenset(ending for endings in FORMATS.values() for ending in endings)

#: Most pixels of a picture (ours): 450 MB as RGB.
PIXELS = 150_000_000

#: Modes of Pillow with more than 8 bits a value.
DEEP = ("I", "F")

ORIENTATION = 0x0112


def open_picture(path: Path | BytesIO) -> Image:
    """Read a picture as upright 8-bit RGB; of an animated file the first frame.

    Args:
        path: its file, or what stands in one.

    Raises:
        DataError: it is missing, damaged, too large, or no picture of one of `FORMATS`.
    """
    where = str(path) if isinstance(path, Path) else ""
    with pillow(path, "picture", where) as picture:
        return as_rgb(picture)


@contextmanager
def pillow(source: Path | BytesIO, what: str, where: str) -> Iterator[Image]:
    """A file as Pillow opens it.

    Args:
        source: the file, or what stands in one.
        what: what errors call it.
        where: where errors say that it is.

    Raises:
        DataError: whatever Pillow raises on opening it and in the block: damaged files bring
            errors of a dozen kinds.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if isinstance(source, Path):
            check_file(source, PICTURE_BYTES)
        with Image.open(source, formats=_formats()) as picture:
            _check_size(picture, what, where)
            yield picture
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"the {what} can't be read (it is of none of the formats that are read).",
            where=where,
            remedy=f"Save it as one of {', '.join(FORMATS)}.",
        ) from error
    except Exception as error:
        raise DataError(f"the {what} can't be read ({reason(error)}).", where=where) from error


def as_rgb(picture: Image) -> Image:
    """One picture, or the frame that an animated one stands at, as upright 8-bit RGB.

    The EXIF orientation is obeyed. Pictures with more than 8 bits a value are scaled: see
    `scaled`. Everything else is what Pillow makes of it: palettes become their colours, and
    transparency is left out.

    Raises:
        DataError: a floating-point picture holds values that aren't finite.
    """
    from PIL import Image

    picture.load()
    turn = _turn(picture)
    if picture.mode.startswith(DEEP):
        sixteen = picture.mode.startswith("I;16") or picture.format in ("PNG", "PPM")
        values = scaled(np.asarray(picture), sixteen=sixteen)
        rgb = Image.fromarray(values).convert("RGB")
    else:
        rgb = picture.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def scaled(values: np.ndarray[Any, Any], *, sixteen: bool) -> np.ndarray[Any, Any]:
    """Grey values `[H, W]` of 16 or 32 bits as 8-bit ones, rounded (the rule is ours).

    16-bit values are divided by 257, which takes 65535 to 255. 32-bit integers and floats don't
    say which range is meant. The smallest of 0 to 1 (of floats only), 0 to 255 and 0 to 65535
    that holds all values of the picture is taken; where none does, the least value becomes black
    and the greatest white (a picture of one such value becomes black).

    Args:
        values: of the file.
        sixteen: whether its format has 16 bits a value, in whatever type they are given.

    Raises:
        DataError: values aren't finite.
    """
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise DataError(
            "the picture can't be read (it holds values that aren't finite).",
            remedy="Replace NaN and infinity before the file is written.",
        )
    low, high = float(exact.min()), float(exact.max())
    ranges = (1.0, 255.0, 65535.0) if values.dtype.kind == "f" else (255.0, 65535.0)
    top = 65535.0 if sixteen else next((end for end in ranges if low >= 0 and high <= end), None)
    if top is None:
        exact, top = exact - low, high - low or 1.0
    shares = exact / top
    whole: np.ndarray[Any, Any] = np.floor(shares * 255 + 0.5).astype(np.uint8)
    return whole


def drawing_format(path: Path) -> str:
    """The format that a picture is written in, by the ending of its file.

    Raises:
        DataError: no format that this Pillow writes has it.
    """
    from PIL import Image

    Image.init()
    ending = path.suffix.lower()
    for name, endings in FORMATS.items():
        if ending in endings and name in Image.SAVE:
            return name
    raise DataError(
        f"'{ending}' is no ending of a format that can be written.",
        where=str(path),
        remedy="Name a file that ends in .png, .jpg, .webp or .tif.",
    )


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _check_size(picture: Image, what: str, where: str) -> None:
    if picture.width * picture.height > PIXELS:
        raise DataError(
            f"the {what} has {picture.width} x {picture.height} pixels, and at most {PIXELS:,} "
            "are read.",
            where=where,
            remedy="Make it smaller; models resize pictures to far fewer pixels.",
        )


def _turn(picture: Image) -> Any:
    """What turns a picture upright, by the EXIF orientation; None where nothing does."""
    from PIL.Image import Transpose

    try:
        orientation = picture.getexif().get(ORIENTATION)
    except Exception:
        return None  # EXIF data that can't be parsed name no orientation
    turns: dict[object, Transpose] = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return turns.get(orientation)
