from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.lab.data import reading
from tokenprune.lab.data.folders import pictures_in
from tokenprune.lab.data.opening import opened
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.reading import FORMATS, PICTURES, open_picture, scaled
from tokenprune.lab.data.videos import Clip
from tokenprune.lab.train.data import opened as for_training

CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)


def corners() -> Image.Image:
    """Red, green above blue, white: every turn and mirror image of it is another picture."""
    return Image.fromarray(CORNERS.repeat(16, axis=0).repeat(24, axis=1))


def turned(path: Path, orientation: int) -> Path:
    """The file of a picture whose upright form is `corners()`."""
    undone: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[reading.ORIENTATION] = orientation
    stored = np.ascontiguousarray(undone[orientation](np.asarray(corners())))
    options = {"quality": 100, "subsampling": 0} if path.suffix == ".jpg" else {}
    if path.suffix == ".webp":
        options = {"lossless": True}
    Image.fromarray(stored).save(path, exif=exif, **options)
    return path


def near(found: Image.Image, wanted: Image.Image) -> bool:
    """Equal but for what JPEG loses."""
    if found.size != wanted.size:
        return False
    return int(np.abs(np.asarray(found).astype(int) - np.asarray(wanted)).max()) < 12


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_obeyed(tmp_path: Path, ending: str, orientation: int) -> None:
    path = turned(tmp_path / f"a.{ending}", orientation)
    assert near(open_picture(path), corners())


def test_every_way_in_reads_alike(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.png", 6)
    assert near(opened(path), corners())
    assert near(opened(path.read_bytes()), corners())
    assert near(for_training(Question(path, "a", "q")).image, corners())
    assert near(Clip.of(path, 1).pictures()[0], corners())
    assert near(Clip.of(tmp_path, 2).pictures()[1], corners())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_makes_no_sense_turns_nothing(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f", quality=100)
    assert open_picture(tmp_path / "a.jpg").size == corners().size


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_16_bits_are_divided_by_257(tmp_path: Path, ending: str) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey * 257).save(tmp_path / f"a.{ending}")
    found = np.asarray(open_picture(tmp_path / f"a.{ending}"))
    assert np.array_equal(found, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),
        ([-10, 0, 10], [0, 128, 255]),
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 1.5, 255.0], [0, 2, 255]),
        ([0.0, 1.0, 65535.0], [0, 0, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([7.0, 7.0, 7.0], [7, 7, 7]),
        ([-7, -7, -7], [0, 0, 0]),
    ],
)
def test_32_bits_are_scaled_by_the_range_they_fit(
    tmp_path: Path, values: list[float], wanted: list[int]
) -> None:
    kind = np.float32 if isinstance(values[0], float) else np.int32
    Image.fromarray(np.array([values], kind)).save(tmp_path / "a.tif")
    assert np.asarray(open_picture(tmp_path / "a.tif"))[0, :, 0].tolist() == wanted


@given(arrays(np.int32, (3, 4), elements=st.integers(-(2**31), 2**31 - 1)))
def test_scaling_keeps_the_order(values: np.ndarray) -> None:
    found = scaled(values, sixteen=False)
    order = np.argsort(values, axis=None)
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()


def test_values_that_arent_finite_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="aren't finite"):
        open_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_what_pillow_makes_of_them(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tif"
    corners().convert(mode).save(path)
    with Image.open(path) as plain:
        assert open_picture(path).tobytes() == plain.convert("RGB").tobytes()


def test_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corners().save(tmp_path / "a.png")
    monkeypatch.setattr(reading, "PIXELS", 48 * 32 - 1)
    with pytest.raises(DataError, match="48 x 32 pixels, and at most 1,535"):
        open_picture(tmp_path / "a.png")


def test_other_formats_are_refused(tmp_path: Path) -> None:
    corners().save(tmp_path / "a.dds")
    with pytest.raises(DataError, match="none of the formats") as caught:
        open_picture(tmp_path / "a.dds")
    assert "Save it as one of" in caught.value.remedy
    with pytest.raises(DataError, match="it is a folder"):
        open_picture(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_whatever_is_broken_is_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        buffer = BytesIO()
        corners().save(buffer, name)
        for _ in range(40):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, len(data), 6):
                data[place] = rng.integers(256)
            with suppress(DataError):
                assert open_picture(BytesIO(bytes(data))).mode == "RGB"


def test_endings_are_those_of_the_formats(tmp_path: Path) -> None:
    assert sorted(PICTURES) == sorted(one for several in FORMATS.values() for one in several)
    for name in ("b.JPG", "a.avif", "c.txt", "d.mp4"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in pictures_in(tmp_path)] == ["a.avif", "b.JPG"]


def test_the_docs_name_every_ending() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    assert [ending for ending in PICTURES if f"`{ending}`" not in page] == []
    assert reading.PIXELS == 150_000_000
    assert "150\n  million pixels" in page
