"""Dual encoders from folders: what they embed, how texts are padded, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenprune_adapters.loaders.dual import text_inputs

from tests.dual import tiny
from tests.dual.conftest import load_dual
from tests.models import PATCHES, clip, siglip
from tokenprune.engine.attach import attach
from tokenprune.errors import CheckpointError, DataError, UnsupportedModelError
from tokenprune.interface.loading import LoadedDual
from tokenprune.lab.models import load_model, load_options

FAMILIES = ("clip", "siglip", "siglip2")
TEXTS = [prompt.format(name) for name in tiny.NAMES[:3] for prompt in tiny.PROMPTS]
SHOWN = [tiny.picture(name, 50 + number) for number, name in enumerate(tiny.NAMES)]


def embedded(loaded: LoadedDual, pictures: list[Any]) -> torch.Tensor:
    with torch.no_grad():
        return loaded.embed(loaded.model, loaded.prepare(pictures))


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_those_of_the_models_own_forward(
    family: str, loaded: dict[str, LoadedDual]
) -> None:
    from transformers import AutoProcessor

    one = loaded[family]
    words = AutoProcessor.from_pretrained(one.name).tokenizer
    padded = {"padding": "max_length", "max_length": tiny.LENGTH, "padding_side": "right"}
    ids = words(TEXTS, truncation=True, return_tensors="pt", **padded)["input_ids"]
    with torch.no_grad():
        out: Any = one.model(input_ids=ids, **one.prepare(SHOWN))
    torch.testing.assert_close(embedded(one, SHOWN), out.image_embeds)
    torch.testing.assert_close(one.texts(TEXTS), out.text_embeds)
    lengths = torch.cat([embedded(one, SHOWN), one.texts(TEXTS)]).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_samples_and_all_kept_is_dense(
    family: str, loaded: dict[str, LoadedDual]
) -> None:
    one = loaded[family]
    dense = embedded(one, SHOWN)
    stage = {"at": "encoder", "strategy": "tome", "keep": 9}
    with attach(one.model, {"stages": [stage]}) as handle:
        batch = embedded(one, SHOWN)
        assert handle.meter.tokens["encoder"] == 9
        single = torch.cat([embedded(one, [picture]) for picture in SHOWN])
        torch.testing.assert_close(batch, single, atol=1e-5, rtol=0)
    assert not torch.equal(batch, dense)
    for stages in ([], [{**stage, "keep": 1.0}], [{**stage, "keep": PATCHES}]):
        with attach(one.model, {"stages": stages}):
            assert torch.equal(embedded(one, SHOWN), dense)
    assert torch.equal(embedded(one, SHOWN), dense)
    alone = torch.cat([one.texts([text]) for text in TEXTS])
    torch.testing.assert_close(one.texts(TEXTS), alone, atol=1e-6, rtol=0)


def test_many_texts_are_embedded_in_several_calls(
    loaded: dict[str, LoadedDual], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loaded["clip"].texts(TEXTS)
    monkeypatch.setattr("tokenprune_adapters.loaders.dual.TEXTS", 4)
    torch.testing.assert_close(loaded["clip"].texts(TEXTS), whole, atol=1e-6, rtol=0)


def test_clip_pads_to_the_longest_text_and_masks_it() -> None:
    words = tiny.tokenizer()
    found = text_inputs(words, "CLIPModel", tiny.LENGTH, ["red", "a photo of a red."])
    assert found["input_ids"].shape == (2, 8)
    assert found["attention_mask"].sum(dim=1).tolist() == [3, 8]
    cut = text_inputs(words, "CLIPModel", 5, ["a photo of a red."])["input_ids"][0].tolist()
    assert len(cut) == 5
    assert cut[-1] == words.eos_token_id


@pytest.mark.parametrize("kind", ["SiglipModel", "Siglip2Model"])
def test_siglip_lowers_texts_and_pads_all_of_them_on_the_right(kind: str) -> None:
    words = tiny.tokenizer(lower=False)
    words.padding_side = "left"
    found = text_inputs(words, kind, tiny.LENGTH, ["The RED one", "red"])
    assert list(found) == ["input_ids"]
    known = words.get_vocab()
    row = [known[one] for one in ("<bos>", "the", "red", "one", "<eos>")]
    assert found["input_ids"][0].tolist() == row + [known["<pad>"]] * (tiny.LENGTH - len(row))


def test_padding_that_siglip2s_processor_adds_is_cut_off(loaded: dict[str, LoadedDual]) -> None:
    one = loaded["siglip2"]
    wide = [tiny.picture("red", 1, (70, 50)), tiny.picture("blue", 2, (70, 50))]
    inputs = one.prepare(wide)
    height, width = inputs["spatial_shapes"][0].tolist()
    assert inputs["pixel_values"].shape[1] == height * width < PATCHES
    padding = PATCHES - height * width
    mask = torch.ones(2, PATCHES, dtype=torch.int64)
    mask[:, height * width :] = 0
    padded = {
        **inputs,
        "pixel_values": torch.nn.functional.pad(inputs["pixel_values"], (0, 0, 0, padding)),
        "pixel_attention_mask": mask,
    }
    with torch.no_grad():
        plain = one.embed(one.model, padded)
    torch.testing.assert_close(embedded(one, wide), plain, atol=1e-5, rtol=0)
    with pytest.raises(DataError, match="different shapes"):
        one.prepare([wide[0], SHOWN[0]])


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_shown_as_the_model_sees_them(
    family: str, loaded: dict[str, LoadedDual]
) -> None:
    given = tiny.picture("yellow", 3, (48, 48))
    seen = np.asarray(loaded[family].picture(given), dtype=int)
    assert np.abs(seen - np.asarray(given, dtype=int)).max() <= 1


def test_the_fingerprint_is_that_of_the_weights(
    folders: dict[str, Path], loaded: dict[str, LoadedDual], tmp_path: Path
) -> None:
    one = loaded["clip"]
    assert one.weights == "model.safetensors"
    assert one.fingerprint() == load_dual(folders["clip"]).fingerprint()
    assert one.fingerprint() != loaded["siglip"].fingerprint()


def refused(folder: Path, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_model(str(folder), load_options("cpu"))


def test_other_parts_of_the_families_are_refused_by_name(tmp_path: Path) -> None:
    clip(classifier=True).save_pretrained(tmp_path)
    refused(tmp_path, UnsupportedModelError, "a CLIPForImageClassification")


def test_a_siglip_without_head_has_no_embeddings(tmp_path: Path) -> None:
    siglip(vision_use_head=False).save_pretrained(tmp_path)
    refused(tmp_path, UnsupportedModelError, "no pooling head")


@pytest.mark.parametrize(
    ("file", "words"),
    [("model.safetensors", "can't be loaded"), ("tokenizer.json", "processor can't be loaded")],
)
def test_damaged_folders(folders: dict[str, Path], tmp_path: Path, file: str, words: str) -> None:
    copied = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    (copied / file).write_bytes(b"{" * 9)
    refused(copied, CheckpointError, words)


def test_weights_of_another_size(folders: dict[str, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folders["clip"], tmp_path / "copy"))
    config = json.loads((copied / "config.json").read_text())
    config["projection_dim"] = 24
    (copied / "config.json").write_text(json.dumps(config))
    refused(copied, CheckpointError, "mismatch")
