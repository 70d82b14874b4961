"""`--model FOLDER` and hub names: checkpoints of every family with their own processor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenprune_adapters.loaders.prompts import Prompts
from tokenprune_adapters.loaders.tiles import coordinates, seen_box

from tests.families.cases import CASES
from tokenprune.errors import CheckpointError, DataError
from tokenprune.interface.loading import WHOLE, LoadedMllm, LoadOptions
from tokenprune.lab.models import load_model

Load = Callable[[str], LoadedMllm]
Folder = Callable[[str], Path]
TILED = ("internvl", "qianfan_ocr", "idefics3", "smolvlm", "aya_vision", "cohere2_vision", "llama4")
TILED += ("perception_lm", "ovis2", "lfm2_vl", "minicpmv4_6", "minicpmv4_7")
TILED += ("minicpm_ocr", "granite_docling", "deepseek_ocr2")


def picture(width: int, height: int) -> Image.Image:
    raw = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(raw)


@pytest.mark.parametrize("name", CASES)
def test_questions_become_inputs_and_tokens_answers(name: str, load: Load) -> None:
    loaded = load(name)
    inputs = loaded.prepare([picture(90, 60), [picture(60, 90)] * 2], ["what?", "how many?"])
    ids = inputs["input_ids"]
    marks = [int(CASES[name].placeholders({"input_ids": row[None]}).sum()) for row in ids]
    assert min(marks) > 0
    assert "labels" not in inputs
    answers = loaded.decode(torch.tensor([loaded.answer_ids("two")]))  # type: ignore[misc]
    assert answers == ["two"]
    out = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(out[:, : ids.shape[1]], ids)


@pytest.mark.parametrize("name", ["llava_next", "video_llava", "qwen3_vl", "gemma4"])
def test_pixels_have_the_type_of_the_weights(name: str, folder: Folder) -> None:
    loaded = load_model(str(folder(name)), LoadOptions(dtype=torch.bfloat16))
    assert isinstance(loaded, LoadedMllm)
    inputs = loaded.prepare([picture(60, 60)], ["what?"])
    floats = {value.dtype for value in inputs.values() if value.is_floating_point()}
    assert floats == {torch.bfloat16}
    assert inputs["input_ids"].dtype == torch.int64
    loaded.model(**inputs)


@pytest.mark.parametrize("name", CASES)
def test_prompts_need_no_chat_template(name: str, folder: Folder) -> None:
    from transformers import AutoProcessor

    if name == "hunyuan_vl":
        pytest.skip("its processor refuses pictures without the marks that a template writes")
    processor = AutoProcessor.from_pretrained(folder(name))
    processor.chat_template = None
    prompts = Prompts(processor)
    ids = prompts.batch([[picture(60, 60)] * 2], ["what?"])["input_ids"]
    assert int(CASES[name].placeholders({"input_ids": ids}).sum()) > 1


@pytest.mark.parametrize("name", TILED)
def test_tiles_are_told_by_what_they_show(name: str, load: Load) -> None:
    loaded = load(name)
    boxes = loaded.tiles(picture(224, 224))
    assert boxes.count(WHOLE) == 1
    area = sum((right - left) * (low - high) for left, high, right, low in boxes)
    assert area == pytest.approx(2, abs=0.02)  # the picture once whole and once in tiles
    small = [box for box in boxes if box != WHOLE]
    assert small == sorted(small, key=lambda box: (round(box[1], 1), round(box[0], 1)))
    assert loaded.picture(picture(224, 224)).size == (224, 224)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "gemma4", "mistral3"])
def test_one_view_is_the_whole_picture(name: str, load: Load) -> None:
    assert load(name).tiles(picture(224, 160)) == [WHOLE]


def test_a_crop_of_coordinates_tells_where_it_was() -> None:
    shown = coordinates(200, 100)
    found = seen_box(shown.crop((50, 20, 150, 80)).resize((64, 64)))
    assert found == pytest.approx((0.25, 0.2, 0.75, 0.8), abs=0.01)
    assert seen_box(shown.resize((30, 70))) == WHOLE


@pytest.fixture
def cache(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hub cache that holds one checkpoint; its commit."""
    from huggingface_hub import constants

    commit = "a" * 40
    home = tmp_path / "models--made--tiny-llava"
    shutil.copytree(folder("llava"), home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return commit


def test_a_name_on_the_hub_is_read_from_its_cache(cache: str, load: Load) -> None:
    for name in ("made/tiny-llava", f"made/tiny-llava@{cache}"):
        found = load_model(name, LoadOptions())
        assert isinstance(found, LoadedMllm)
        assert found.name == name
        assert found.fingerprint() == load("llava").fingerprint()


@pytest.mark.parametrize("name", ["made/absent", "made/tiny-llava@other"])
def test_a_name_that_cannot_be_had_is_named(cache: str, name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder, and the hub's") as caught:
        load_model(name, LoadOptions())
    assert caught.value.where == name


@pytest.mark.usefixtures("cache")
def test_a_misspelt_folder_is_no_name_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name in ("models/lava", "lava", "some/where/else", "/some/where"):
        with pytest.raises(DataError, match="no model folder"):
            load_model(name, LoadOptions())
