"""The bundled video model: its tower, its prompt, and that it answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.reference import (
    CLIP_TYPES,
    FRAMES,
    ClipSample,
    clip_prompt,
    heldout_clips,
    reference_model_path,
    video_model_path,
)
from training.reference_model.model import PATCHES
from training.shared.asking import load_weights
from training.video_model.card import write_card
from training.video_model.evaluate import RECORD
from training.video_model.forward import QUESTION_START
from training.video_model.measure import all_patches, make_page, say, see
from training.video_model.vocab import WORDS

FOLDER = video_model_path()
WEIGHTS = FOLDER / "model.safetensors"

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="the checkpoint is not exported yet")


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def samples() -> list[ClipSample]:
    return heldout_clips(20)


def messages(question: str, images: int) -> list[dict[str, Any]]:
    parts: list[dict[str, str]] = [{"type": "image"}] * images
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def test_checkpoint_is_small_and_fp16() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 15e6
    with safe_open(WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_the_tower_is_that_of_the_image_model() -> None:
    theirs, ours = load_file(reference_model_path() / "model.safetensors"), load_file(WEIGHTS)
    tower = [name for name in theirs if "vision_tower" in name]
    assert len(tower) > 100
    assert all(torch.equal(theirs[name], ours[name]) for name in tower)
    language = [name for name in theirs if "q_proj" in name and name not in tower]
    assert all(not torch.equal(theirs[name], ours[name]) for name in language)


def test_configuration_holds_a_whole_clip() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["text_config"]["vocab_size"] == len(WORDS)
    assert config["text_config"]["max_position_embeddings"] > QUESTION_START + 10


def test_processor_makes_one_placeholder_a_patch(processor: Any, samples: list[ClipSample]) -> None:
    sample = samples[0]
    text = clip_prompt(sample.question)
    assert processor.apply_chat_template(messages(sample.question, FRAMES)) == text
    inputs = processor(images=list(sample.frames), text=text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<image>")) == FRAMES * PATCHES
    assert processor.tokenizer.unk_token_id not in ids
    assert len(ids) == QUESTION_START + len(sample.question.split())


def test_no_word_of_the_questions_is_unknown(processor: Any) -> None:
    for sample in heldout_clips(60):
        ids = processor.tokenizer(f"{sample.question} {sample.answer}")["input_ids"]
        assert processor.tokenizer.unk_token_id not in ids


@torch.no_grad()
def test_generate_says_what_the_training_forward_says(
    processor: Any, samples: list[ClipSample]
) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.float32).eval()
    # two prompts of different length, so that one is padded on the left
    first = samples[0]
    other = next(s for s in samples if len(s.question.split()) != len(first.question.split()))
    pair = [first, other]
    inputs = processor(
        images=[frame for sample in pair for frame in sample.frames],
        text=[clip_prompt(sample.question) for sample in pair],
        padding=True,
        return_tensors="pt",
    )
    new = model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    said = [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    w, page = load_weights(str(FOLDER)), make_page([[sample] for sample in pair])
    ours = say(w, page, see(w, page.frames).patches, all_patches(page), compact=False)
    assert said == [WORDS[word] for word in ours[:, 0].tolist()]


@torch.no_grad()
def test_it_answers(samples: list[ClipSample]) -> None:
    w = load_weights(str(FOLDER))
    by_clip: dict[int, list[ClipSample]] = {}
    for sample in samples:
        by_clip.setdefault(sample.image_id, []).append(sample)
    page = make_page(list(by_clip.values())[:6])
    said = say(w, page, see(w, page.frames).patches, all_patches(page), compact=False)
    there = page.answer >= 0
    right, asked = int((said == page.answer)[there].sum()), int(there.sum())
    assert right >= 0.75 * asked


def test_the_card_is_written_from_the_record() -> None:
    record = json.loads(RECORD.read_text())
    assert (FOLDER / "README.md").read_text() == write_card(record)
    assert record["questions"]["all"] >= 500
    assert set(record["dense"]) == {"all", *CLIP_TYPES}
