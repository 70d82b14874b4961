"""The bundled detail model: its files, its prompt, and that it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.lab.models import bundled_model, bundled_name
from tokenprune.reference import (
    DETAIL_TYPES,
    DetailSample,
    detail_model_path,
    heldout_details,
    reference_model_path,
)
from training.detail_model.card import write_card
from training.detail_model.data import ASKING, OWN_COVER
from training.detail_model.evaluate import RECORD
from training.detail_model.model import PATCHES
from training.reference_model.measure import ask, in_pages, make_page, see
from training.shared.asking import load_weights

FOLDER = detail_model_path()
WEIGHTS = FOLDER / "model.safetensors"
#: Share of the first questions that have to be right; the record says what is reached on all.
FLOOR = 0.75


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def samples() -> list[DetailSample]:
    return heldout_details(36)


def test_checkpoint_is_small_and_fp16() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 15e6
    with safe_open(WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_it_has_the_small_models_depth_and_more_tokens() -> None:
    ours, small = (
        json.loads((folder / "config.json").read_text())
        for folder in (FOLDER, reference_model_path())
    )
    for part in ("vision_config", "text_config"):
        assert ours[part]["num_hidden_layers"] == small[part]["num_hidden_layers"]
    vision = ours["vision_config"]
    assert (vision["image_size"] // vision["patch_size"]) ** 2 == PATCHES == 400
    assert ours["image_seq_length"] == PATCHES


def test_processor_makes_one_placeholder_a_patch(
    processor: Any, samples: list[DetailSample]
) -> None:
    text = f"<image> {samples[0].question}"
    inputs = processor(images=samples[0].image, text=text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<image>")) == PATCHES
    assert inputs["pixel_values"].shape == (1, 3, 160, 160)


def test_no_word_of_the_questions_is_unknown(processor: Any, samples: list[DetailSample]) -> None:
    for sample in samples:
        ids = processor.tokenizer(f"{sample.question} {sample.answer}")["input_ids"]
        assert processor.tokenizer.unk_token_id not in ids


@torch.no_grad()
def test_generate_says_what_the_training_forward_says(
    processor: Any, samples: list[DetailSample]
) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    (group,) = in_pages(samples[:6], 6)
    page = make_page(group, ASKING, OWN_COVER)
    w = load_weights(str(FOLDER))
    right = ask(w, page, see(w, page), page.everything(), compact=False)
    inputs = processor(
        images=[sample.image for sample in samples[:6]],
        text=[f"<image> {sample.question}" for sample in samples[:6]],
        padding=True,
        return_tensors="pt",
    )
    new = model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    said = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    expected = right[page.answer >= 0].tolist()
    assert [s == sample.answer for s, sample in zip(said, samples, strict=False)] == expected


@torch.no_grad()
def test_it_answers_and_needs_the_picture(samples: list[DetailSample]) -> None:
    w = load_weights(str(FOLDER))
    (group,) = in_pages(samples, len(samples))
    page = make_page(group, ASKING, OWN_COVER)
    there = page.answer >= 0
    shares = [
        float(ask(w, page, see(w, page, blank=blank), page.everything(), compact=False)[there]
              .float().mean())
        for blank in (False, True)
    ]  # fmt: skip
    assert shares[0] >= FLOOR > 0.4 > shares[1]


def test_it_is_the_model_of_its_task() -> None:
    assert bundled_model("detail") == FOLDER
    assert bundled_name(str(FOLDER)) == "detail"
    assert bundled_model("image") == reference_model_path()


def test_the_card_is_written_from_the_record() -> None:
    record = json.loads(RECORD.read_text())
    assert (FOLDER / "README.md").read_text() == write_card(record)
    assert set(record["dense"]) == {"all", *DETAIL_TYPES}
    assert sum(record["questions"].values()) >= 500
