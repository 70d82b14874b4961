"""A checkpoint of every family goes to disk and back, and its processor fits its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from tokenprune_adapters.loaders import prompts

from tests.families import checkpoints
from tests.families.calls import feature_rows, logits
from tests.families.case import Case
from tests.families.cases import CASES
from tests.families.models.common import FIRST_WORD
from tests.families.processors import RECIPES
from tests.families.tokenizer import ALPHABET
from tokenprune.interface.loading import LoadedMllm

NEW = 1
QUESTIONS = ["what is this?", "which color has the car?"]
FIRST, SECOND, FRAMES = (60, 40), (210, 50), 4
EVEN = ("idefics2", "aria")
"""Families whose processors give all pictures equally many places unless told to cut them."""
CLIPS = [name for name, case in CASES.items() if case.clip]


def case_of(name: str, scene: str = "one") -> Case:
    reason = checkpoints.missing(CASES[name], scene)
    if reason:
        pytest.skip(f"{name}: {reason}")
    return CASES[name]


@pytest.fixture(scope="module")
def loaded(folder: Callable[[str], Path], load: Callable[[str], LoadedMllm]) -> Any:
    """Model and processor of a case, from disk; kept for the tests of this file."""
    from transformers import AutoProcessor

    kept: dict[str, Any] = {}

    def both(case: Case) -> Any:
        if case.name not in kept:
            processor = AutoProcessor.from_pretrained(folder(case.name))
            kept[case.name] = load(case.name).model, processor
        return kept[case.name]

    return both


def picture(size: tuple[int, int]) -> Image.Image:
    """A random picture; `size` is (width, height), as pillow has it."""
    generator = torch.Generator().manual_seed(sum(size))
    raw = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(raw.numpy())


def asked(case: Case, processor: Any, *sizes: list[tuple[int, int]]) -> Any:
    """The processor's inputs for a prompt with pictures of each list of sizes."""
    shown: list[Any] = [[picture(size) for size in row] for row in sizes]
    if RECIPES[case.name].flat:
        shown = [one for row in shown for one in row]
    mark = RECIPES[case.name].picture
    texts = [mark * len(row) + text for row, text in zip(sizes, QUESTIONS, strict=False)]
    more = prompts.asked(processor)
    made = processor(images=shown, text=texts, return_tensors="pt", padding=True, **more)
    # Llama 4's processor makes pixels of another type than the weights
    return {key: one.float() if one.is_floating_point() else one for key, one in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_saved_model_comes_back(name: str, loaded: Any) -> None:
    case = case_of(name)
    model, _ = loaded(case)
    assert type(model) is type(case.build())
    call = case.inputs("two_sizes")
    # weights that a file has at odd places are multiplied in another order
    bound = 1e-5 if name in ("gemma3n", "fast_vlm") else 0.0
    assert float((logits(model, call) - logits(case.build(), call)).abs().max()) <= bound


@pytest.mark.parametrize("sizes", [[[FIRST], [SECOND]], [[FIRST, FIRST], [FIRST]]])
@pytest.mark.parametrize("name", CASES)
def test_the_processor_makes_a_place_for_every_feature(
    name: str, sizes: list[list[tuple[int, int]]], loaded: Any
) -> None:
    case = case_of(name)
    model, processor = loaded(case)
    call = asked(case, processor, *sizes)
    places = int(case.placeholders(call).sum())
    assert places == feature_rows(model, call, "image") > 0
    out = model.generate(**call, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False)
    assert out.shape[1] == call["input_ids"].shape[1] + NEW
    assert len(processor.batch_decode(out[:, -NEW:])) == len(sizes)


@pytest.mark.parametrize("name", CASES)
def test_pictures_of_two_sizes_take_different_counts_of_places(name: str, loaded: Any) -> None:
    case = case_of(name)
    first, second = case.placeholders(asked(case, loaded(case)[1], [FIRST], [SECOND])).sum(1)
    several = case.sizes[0] != case.sizes[1] and name not in EVEN
    assert (int(first) != int(second)) == several


@pytest.mark.parametrize("name", CLIPS)
def test_the_processor_makes_a_place_for_every_feature_of_a_clip(name: str, loaded: Any) -> None:
    case = case_of(name, "video")
    model, processor = loaded(case)
    frames = numpy.stack([numpy.asarray(picture(FIRST))] * FRAMES)
    # MiniMax M3's leaves it to its users; others can't be asked for it
    resized = {"do_resize": True} if name == "minimax_m3_vl" else {}
    call = processor(
        videos=[[frames]],
        text=[RECIPES[name].clip + QUESTIONS[0]],
        return_tensors="pt",
        do_sample_frames=False,
        **resized,
        **prompts.asked(processor),
    )
    features = sum(feature_rows(model, call, kind) for kind in ("image", "video"))
    assert features + case.added(call) == int(case.placeholders(call).sum()) > 0
    assert {*call, *case.heard} == set(case.inputs("video"))
    assert logits(model, call).shape[:2] == call["input_ids"].shape


@pytest.mark.parametrize("name", CASES)
def test_the_processor_gives_the_arguments_of_the_fixtures(name: str, loaded: Any) -> None:
    case = case_of(name)
    call = asked(case, loaded(case)[1], [FIRST], [SECOND])
    # PaliGemma's processor adds labels, none of which counts
    assert bool((call.pop("labels", torch.tensor(-100)) == -100).all())
    shapes = {name: value.dim() for name, value in call.items()}
    wanted = {name: value.dim() for name, value in case.inputs("two_sizes").items()}
    assert shapes == {name: dim for name, dim in wanted.items() if name not in case.heard}


def test_perception_lm_takes_one_number_of_tiles_in_a_call(loaded: Any) -> None:
    case = case_of("perception_lm")
    pictures = [[picture(FIRST)], [picture((128, 60))]]
    texts = [RECIPES[case.name].picture] * 2
    with pytest.raises(ValueError, match="expects each tensor to be equal size"):
        loaded(case)[1](images=pictures, text=texts, return_tensors="pt", padding=True)


@pytest.mark.parametrize("name", CASES)
def test_the_chat_template_puts_pictures_in_front_of_words(name: str, loaded: Any) -> None:
    case = case_of(name)
    _, processor = loaded(case)
    # where a turn has a clip, SmolVLM's processor takes a template of its own
    clip = bool(case.clip) and name != "smolvlm"
    kinds = ["image", "image", *["video"] * clip]
    content = [{"type": "text", "text": "what?"}, *({"type": kind} for kind in kinds)]
    turns = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turns, add_generation_prompt=True)
    marks = RECIPES[name].picture * 2 + RECIPES[name].clip * clip
    assert prompt == f"user: {marks}what?\nassistant:"


@pytest.mark.parametrize("name", CASES)
def test_words_are_spelt_and_read_back(name: str, loaded: Any) -> None:
    _, processor = loaded(case_of(name))
    ids = processor.tokenizer(ALPHABET, add_special_tokens=False)["input_ids"]
    assert ids == list(range(FIRST_WORD, FIRST_WORD + len(ALPHABET)))
    assert processor.tokenizer.decode(ids) == ALPHABET
