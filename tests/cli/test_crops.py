"""What a processor cuts off is drawn, and words that a tokenizer doesn't know are said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from tests.studies.test_studies import change
from tokenprune.cli.app import app
from tokenprune.lab.drawing.crops import seen_part, whole
from tokenprune.lab.drawing.panels import INK
from tokenprune.lab.studies import load_study, run_study
from tokenprune.lab.studies.summary import summarise

See = Callable[[Image.Image], Image.Image]
SIZE = (341, 256)


def central(picture: Image.Image) -> Image.Image:
    """The shorter side to 112, then the middle."""
    return ImageOps.fit(picture, (112, 112))


def squeezed(picture: Image.Image) -> Image.Image:
    return picture.resize((112, 112))


def boxed(picture: Image.Image) -> Image.Image:
    return ImageOps.pad(picture, (112, 112), color=(124, 116, 104))


def cornered(picture: Image.Image) -> Image.Image:
    return picture.crop((0, 0, picture.width // 2, picture.height // 4)).resize((112, 112))


@pytest.mark.parametrize(
    ("see", "expected"),
    [
        (central, ((1 - 256 / 341) / 2, 0, (1 + 256 / 341) / 2, 1)),
        (cornered, (0, 0, 0.5, 0.25)),
        (squeezed, None),
        (boxed, None),
    ],
)
def test_the_part_that_is_seen(see: See, expected: tuple[float, ...] | None) -> None:
    found = seen_part(SIZE, see)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found == pytest.approx(expected, abs=0.02)


def test_a_picture_that_fits_is_seen_whole() -> None:
    assert seen_part((112, 112), central) is None
    assert seen_part((1, 1), squeezed) is None


def test_what_is_cut_off_is_dark_and_the_rest_as_it_is() -> None:
    panel = whole(Image.new("RGB", (200, 100), "white"), (0.25, 0.0, 0.75, 1.0), (100, 100))
    pixels = np.asarray(panel.picture)
    assert pixels.shape == (100, 100, 3)
    assert tuple(pixels[10, 50]) == INK, "around the picture"
    assert tuple(pixels[50, 50]) == (255, 255, 255)
    assert tuple(pixels[50, 10]) == (89, 89, 89)
    assert panel.detail == "200 x 100; the model sees 50% of it, framed"


@pytest.mark.parametrize(("size", "panels"), [((60, 60), 2), ((90, 60), 3)])
def test_show_draws_the_whole_picture_where_it_was_cut(
    tmp_path: Path, size: tuple[int, int], panels: int
) -> None:
    Image.new("RGB", size, "teal").save(tmp_path / "a.png")
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    command = ["show", str(tmp_path / "a.png"), "--plan", str(tmp_path / "p.yaml")]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "o.png")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "o.png") as found:
        assert round(found.width / 468) == panels


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("how many objects are there ?", ""),
        ("What animal do you see ?", "doesn't know 'animal', 'do', 'you', 'see', so answers"),
    ],
)
def test_words_that_the_tokenizer_doesnt_know_are_said(
    tmp_path: Path, question: str, said: str
) -> None:
    Image.new("RGB", (60, 60), "teal").save(tmp_path / "a.png")
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    command = ["show", str(tmp_path / "a.png"), "--plan", str(tmp_path / "p.yaml")]
    command += ["--out", str(tmp_path / "o.png"), "--question", question]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert said in output
    assert ("beware" in output) == bool(said)


def test_a_study_says_them_once_for_all_rows(study: Path) -> None:
    text = (study.parent / "asked.jsonl").read_text().replace("shape", "zeppelin", 1)
    (study.parent / "asked.jsonl").write_text(text)
    change(
        study, plans=[{"plan": {"stages": [{"at": "pre_llm", "strategy": "random", "keep": 4}]}}]
    )
    (group,) = summarise(run_study(load_study(study)).records)
    for row in group.rows:
        assert any("doesn't know 'zeppelin'" in warning for warning in row.warnings)
