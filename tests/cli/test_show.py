"""`tokenprune show`: questions of any form, and files in the format that they are called."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from tokenprune.cli.app import app
from tokenprune.errors import TokenpruneError
from tokenprune.lab.drawing.panels import Panel, _fit, _font, strip
from tokenprune.lab.models import bundled_name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.png")
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 4}]")
    return tmp_path


def shown(folder: Path, out: str, question: str = "what ?") -> tuple[int, str]:
    command = ["show", str(folder / "a.png"), "--plan", str(folder / "p.yaml")]
    command += ["--out", str(folder / out), "--question", question]
    result = CliRunner().invoke(app, command)
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("name", "kind"), [("x.jpg", "JPEG"), ("x.PNG", "PNG"), ("x.webp", "WEBP")]
)
def test_the_ending_says_the_format(folder: Path, name: str, kind: str) -> None:
    question = "what is this ?\nAnswer in one word."
    assert shown(folder, name, question)[0] == 0
    with Image.open(folder / name) as found:
        assert found.format == kind


def test_a_picture_that_is_there_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command = ["show", "a.png", "--plan", "p.yaml", "--question", "what ?"]
    before = Path("a.png").read_bytes()
    refused = CliRunner().invoke(app, [*command, "--out", "a.png"])
    assert refused.exit_code == 2
    assert "--force" in refused.output
    assert Path("a.png").read_bytes() == before  # the user's own photo
    Path("tokens.png").write_text("another")
    assert "wrote tokens-2.png" in CliRunner().invoke(app, command).output
    assert Path("tokens.png").read_text() == "another"
    assert CliRunner().invoke(app, [*command, "--out", "tokens.png", "--force"]).exit_code == 0
    assert Path("tokens.png").read_bytes() == Path("tokens-2.png").read_bytes()


@pytest.mark.parametrize("name", ["x.mp4", "x"])
def test_other_endings_are_refused_before_anything_runs(folder: Path, name: str) -> None:
    code, said = shown(folder, name)
    assert code == 2
    assert "no ending of a format that can be written" in said
    assert not (folder / name).exists()


def test_a_full_disk_is_an_error_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    code, said = shown(folder, "x.png")
    assert code == 2
    assert "x.png" in said
    assert "No space left on device" in said
    assert "Make room there" in said


@pytest.mark.parametrize("size", [14, 20])
@pytest.mark.parametrize("text", ["", "short", "a line\nand another", "w" * 5000, "i " * 90_000])
def test_titles_of_any_length_fit_on_their_line(text: str, size: int) -> None:
    draw = ImageDraw.Draw(Image.new("RGB", (10, 10)))
    found = _fit(draw, text, 300, size)
    assert draw.textlength(found, font=_font(size)) <= 300
    whole = " ".join(text.split())
    assert found == whole or whole.startswith(found.removesuffix("..."))
    if found != whole:
        longer = whole[: len(found.removesuffix("...")) + 2].rstrip() + "..."
        assert draw.textlength(longer, font=_font(size)) > 300
    assert strip([Panel(Image.new("RGB", (90, 90)), text, text)], text).width > 0


@pytest.mark.parametrize("name", ["photo.jpg", "absent.mp4"])
def test_the_file_that_is_no_video_is_named(folder: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(folder / "clip.gif", save_all=True)
    (folder / "photo.jpg").write_bytes(b"no video")
    files = [str(folder / "clip.gif"), str(folder / name)]
    command = ["show", *files, "--frames", "2", "--plan", str(folder / "p.yaml")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert f"{name}, --frames 2" in "".join(result.output.splitlines())


def test_reference_is_the_bundled_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every command, and of clips it is the bundled one for clips."""
    asked: list[str] = []

    def load(spec: str, *_: object, **__: object) -> None:
        asked.append(bundled_name(spec))
        raise TokenpruneError("asked")

    # modules that import the name come first, so that none keeps the other one
    monkeypatch.setattr("tokenprune.lab.compare.run.load_model", load)
    monkeypatch.setattr("tokenprune.lab.studies.execute.load_model", load)
    monkeypatch.setattr("tokenprune.lab.models.load_model", load)
    Image.new("RGB", (8, 8)).save(folder / "clip.gif", save_all=True)
    plan, out = ("--plan", str(folder / "p.yaml")), ("--out", str(folder / "out"))
    sheet = ("--out", str(folder / "out.png"))
    for args, expected in (
        (("show", str(folder / "a.png"), *plan, *sheet), "reference"),
        (("show", str(folder / "clip.gif"), "--frames", "8", *plan, *sheet), "video"),
        (("bench", *out), "reference"),
        (("bench", "--frames", "4", *out), "video"),
        (("train", "vistog", *plan, *out), "reference"),
        (("compare", *out), "detail"),
        (("compare", "--task", "video", *out), "video"),
    ):
        for more in ((), ("--model", "reference")):
            result = CliRunner().invoke(app, [*args, *more])
            assert (result.exit_code, asked.pop()) == (2, expected), result.output
    for more in ((), ("reference",)):
        CliRunner().invoke(app, ["verify", *more, *plan])
        assert asked.pop() == "reference"
    result = CliRunner().invoke(app, [*args, "--model", "referense"])
    assert "Did you mean 'reference'" in result.output
    assert not asked


def test_a_clip_is_shown_on_the_bundled_model_for_clips(folder: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    command = ["show", str(folder / "clip.gif"), "--frames", "8", "--out", str(folder / "x.png")]
    result = CliRunner().invoke(app, [*command, "--plan", str(folder / "p.yaml")])
    assert result.exit_code == 0, result.output
