"""Damaged pictures, clips, checkpoints and folders of models: read, or refused in words."""

from __future__ import annotations

import json
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenprune_strategies.shared import checkpoint

from tests.compare import clips
from tests.compare.test_clips import pyav
from tests.compare.tiny import save_llava
from tests.fuzz.mutate import inputs, refused_in_words
from tokenprune.errors import CheckpointError
from tokenprune.interface.loading import LoadOptions
from tokenprune.lab.data.reading import FORMATS, open_picture
from tokenprune.lab.data.videos import Clip
from tokenprune.lab.models import load_model
from tokenprune.plugins.strategies import strategy_class


def pictures() -> list[bytes]:
    """One of every format that this Pillow writes, in several modes."""
    Image.init()
    noise = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    found = []
    for mode in ("RGB", "L", "P", "RGBA", "I;16", "1"):
        shown: Any = Image.fromarray(noise)
        shown = shown.convert("I").convert(mode) if mode == "I;16" else shown.convert(mode)
        for form in FORMATS:
            if form not in Image.SAVE:
                continue
            stream = BytesIO()
            try:
                shown.save(stream, form)
            except (OSError, KeyError, ValueError):
                continue  # not every format has every mode
            found.append(stream.getvalue())
    assert len(found) > 15
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pictures(times: int) -> None:
    goods = pictures()
    refused = sum(
        refused_in_words(lambda data=data: open_picture(BytesIO(data)), data)  # type: ignore[misc]
        for data in inputs(goods, 400 * times, seed=1)
    )
    assert 0 < refused < 400 * times


@pyav
def test_clips(tmp_path: Path, times: int) -> None:
    kinds = [("a.mp4", "mpeg4"), ("a.avi", "mpeg4"), ("a.mkv", "libx264"), ("a.ts", "libx264")]
    goods = [clips.save_video(tmp_path / name, 6, codec, 3).read_bytes() for name, codec in kinds]
    animated = [clips.save_animation(tmp_path / f"a.{end}", 4) for end in ("gif", "webp")]
    goods += [one.read_bytes() for one in animated]
    path = tmp_path / "clip"
    for data in inputs(goods, 60 * times, seed=2):
        path.write_bytes(data)
        refused_in_words(lambda: Clip.of(path, 3).pictures(), data)


def test_checkpoints_of_strategies(tmp_path: Path, times: int) -> None:
    name = "dyvte"
    (good, *_) = checkpoint.shipped(name).values()
    data = good.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    path, build = tmp_path / "weights.safetensors", strategy_class(name).from_params
    for head in inputs([data[:start]], 60 * times, seed=3):
        path.write_bytes(head + data[start:])
        refused_in_words(lambda: build(checkpoint=path), head)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


def test_folders_of_models(model: Path, tmp_path: Path, times: int) -> None:
    names = sorted(path.name for path in model.iterdir() if path.suffix == ".json")
    for number in range(12 * times):
        folder = tmp_path / str(number)
        shutil.copytree(model, folder)
        target = folder / names[number % len(names)]
        (data,) = inputs([target.read_bytes()], 1, seed=number)
        target.write_bytes(data)
        refused_in_words(lambda folder=folder: load_model(str(folder), LoadOptions()), data)  # type: ignore[misc]
        shutil.rmtree(folder)


@pytest.mark.parametrize("odd", ["fifo", "zero", "folder"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_no_file_in_a_models_folder(
    model: Path, tmp_path: Path, name: str, odd: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / name).unlink(missing_ok=True)
    if odd == "fifo":
        os.mkfifo(folder / name)
    elif odd == "zero":
        (folder / name).symlink_to("/dev/zero")
    else:
        (folder / name).mkdir()
    assert refused_in_words(lambda: load_model(str(folder), LoadOptions()), odd.encode())


@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_a_folder_runs_no_code_of_its_own(
    model: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would be answered on the terminal, nothing asks there and nothing is run."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(model, folder)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: ...\n")
    path = folder / name
    data = json.loads(path.read_text()) if path.exists() else {}
    maps = {"AutoConfig": "evil.Evil", "AutoProcessor": "evil.Evil", "AutoTokenizer": "evil.Evil"}
    data |= {"auto_map": maps}
    if name == "config.json":
        data["model_type"] = "evil"
    path.write_text(json.dumps(data))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    refused_in_words(lambda: load_model(str(folder), LoadOptions()), name.encode())
    assert not ran.exists()
    assert asked == []


def test_pickles_are_not_read(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    for path in folder.glob("*.safetensors"):
        path.rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors"):
        load_model(str(folder), LoadOptions())
