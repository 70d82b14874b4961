from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, LlavaForConditionalGeneration

from tokenprune.reference import heldout_samples, reference_model_path

WEIGHTS = reference_model_path() / "model.safetensors"

pytestmark = pytest.mark.skipif(not WEIGHTS.exists(), reason="the checkpoint is not exported yet")


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(reference_model_path())


def test_checkpoint_is_small_and_fp16() -> None:
    assert WEIGHTS.stat().st_size <= 15e6
    with safe_open(WEIGHTS, "pt") as tensors:
        names = list(tensors.keys())
        assert {tensors.get_slice(name).get_dtype() for name in names} == {"F16"}


def test_configuration_is_that_of_a_deep_enough_tower() -> None:
    config = json.loads((reference_model_path() / "config.json").read_text())
    vision = config["vision_config"]
    assert vision["num_hidden_layers"] >= 12
    assert (vision["image_size"] // vision["patch_size"]) ** 2 >= 196
    assert config["vision_feature_layer"] == -2


def test_processor_makes_one_placeholder_a_patch(processor: Any) -> None:
    sample = heldout_samples(1)[0]
    inputs = processor(images=sample.image, text="<image> Where is the STAR?", return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    assert ids.count(processor.tokenizer.convert_tokens_to_ids("<image>")) == 196
    assert processor.tokenizer.unk_token_id not in ids
    assert inputs["pixel_values"].shape == (1, 3, 112, 112)
    assert float(inputs["pixel_values"].min()) >= -1.0


def test_chat_template_gives_the_same_prompt(processor: Any) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "where is the star ?"}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}])
    assert prompt == "<image> where is the star ?"


@torch.no_grad()
def test_it_answers(processor: Any) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(
        reference_model_path(), dtype=torch.float32
    ).eval()
    samples = heldout_samples(60)
    inputs = processor(
        images=[sample.image for sample in samples],
        text=[f"<image> {sample.question}" for sample in samples],
        padding=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    said = processor.batch_decode(output, skip_special_tokens=True)
    right = sum(s.strip() == sample.answer for s, sample in zip(said, samples, strict=True))
    assert right >= 0.94 * len(samples)
