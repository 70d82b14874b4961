"""A checkpoint of every family goes to disk and back, and its processor fits its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.families import checkpoints
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.models.common import FIRST_WORD
from tests.families.test_fixtures import feature_rows, logits
from tests.families.tokenizer import ALPHABET

NEW = 3
QUESTIONS = ["what is this?", "which color has the car?"]
SIZES = [(60, 40), (210, 50)]


def case_of(name: str) -> Case:
    reason = checkpoints.missing(CASES[name])
    if reason:
        pytest.skip(f"{name}: {reason}")
    return CASES[name]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Model and processor of a case, from disk; kept for the tests of this file."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    kept: dict[str, Any] = {}

    def load(case: Case) -> Any:
        if case.name not in kept:
            folder: Path = tmp_path_factory.mktemp(case.name)
            checkpoints.save(case, folder)
            model = AutoModelForImageTextToText.from_pretrained(folder)
            kept[case.name] = model.eval(), AutoProcessor.from_pretrained(folder)
        return kept[case.name]

    return load


def picture(size: tuple[int, int]) -> Image.Image:
    """A random picture; `size` is (width, height), as pillow has it."""
    generator = torch.Generator().manual_seed(sum(size))
    raw = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(raw.numpy())


def asked(case: Case, processor: Any, count: int) -> Any:
    """The processor's inputs for `count` prompts with a picture each, of different sizes."""
    texts = [checkpoints.picture(case) + question for question in QUESTIONS[:count]]
    pictures = [[picture(size)] for size in SIZES[:count]]
    return processor(images=pictures, text=texts, return_tensors="pt", padding=True)


@pytest.mark.parametrize("name", CASES)
def test_the_saved_model_comes_back(name: str, loaded: Any) -> None:
    case = case_of(name)
    model, _ = loaded(case)
    assert type(model) is type(case.build())
    call = case.inputs("two_sizes")
    assert torch.equal(logits(model, call), logits(case.build(), call))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_the_processor_makes_a_place_for_every_feature(name: str, count: int, loaded: Any) -> None:
    case = case_of(name)
    model, processor = loaded(case)
    call = asked(case, processor, count)
    places = int(case.placeholders(call).sum())
    assert places == feature_rows(model, call, "image") > 0
    if count == 2:
        first, second = case.placeholders(call).sum(1).tolist()
        assert (first != second) == (case.sizes[0] != case.sizes[1])
    assert logits(model, call).shape[:2] == call["input_ids"].shape
    out = model.generate(**call, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert out.shape[1] == call["input_ids"].shape[1] + NEW
    assert len(processor.batch_decode(out[:, -NEW:])) == count


@pytest.mark.parametrize("name", CASES)
def test_the_processor_gives_the_arguments_of_the_fixtures(name: str, loaded: Any) -> None:
    case = case_of(name)
    call = asked(case, loaded(case)[1], 2)
    # PaliGemma's processor adds labels, none of which counts
    assert bool((call.pop("labels", torch.tensor(-100)) == -100).all())
    assert set(call) == set(case.inputs("two_sizes"))
    shapes = {name: value.dim() for name, value in call.items()}
    assert shapes == {name: value.dim() for name, value in case.inputs("two_sizes").items()}


def test_perception_lm_takes_one_number_of_tiles_in_a_call(loaded: Any) -> None:
    case = case_of("perception_lm")
    pictures = [[picture((60, 40))], [picture((128, 60))]]
    texts = [checkpoints.picture(case)] * 2
    with pytest.raises(ValueError, match="expects each tensor to be equal size"):
        loaded(case)[1](images=pictures, text=texts, return_tensors="pt", padding=True)


@pytest.mark.parametrize("name", CASES)
def test_the_chat_template_puts_pictures_in_front_of_words(name: str, loaded: Any) -> None:
    case = case_of(name)
    _, processor = loaded(case)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what?"}]
    turns = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    assert prompt == f"user: {checkpoints.picture(case) * 2}what?\nassistant:"


@pytest.mark.parametrize("name", CASES)
def test_words_are_spelt_and_read_back(name: str, loaded: Any) -> None:
    _, processor = loaded(case_of(name))
    ids = processor.tokenizer(ALPHABET, add_special_tokens=False)["input_ids"]
    assert ids == list(range(FIRST_WORD, FIRST_WORD + len(ALPHABET)))
    assert processor.tokenizer.decode(ids) == ALPHABET
