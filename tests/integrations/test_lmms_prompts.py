"""Chat messages, generation arguments and stop texts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tokenprune_adapters.lmms_eval.generation import batches, cut, generate_options
from tokenprune_adapters.lmms_eval.prompts import Chat, conversation

from tokenprune.errors import DataError, UnsupportedCallError

RED, BLUE = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
TURNS = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "first"},
            {"type": "image", "url": RED},
            {"type": "text", "text": "second"},
            {"type": "image", "url": BLUE.convert("L")},
        ],
    },
]


class Processor:
    image_token = "<image>"
    chat_template: str | None = None

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(padding_side="right")

    def apply_chat_template(self, turns: Any, add_generation_prompt: bool) -> str:
        return f"{self.chat_template} {[turn['role'] for turn in turns]} {add_generation_prompt}"


def test_pictures_stay_in_order() -> None:
    read = conversation(TURNS)
    assert [image.getpixel((0, 0)) for image in read.images] == [(255, 0, 0), (29, 29, 29)]
    assert [image.mode for image in read.images] == ["RGB", "RGB"]
    kinds = [[part["type"] for part in turn["content"]] for turn in read.turns]
    assert kinds == [["text"], ["text", "image", "text", "image"]]


def test_pictures_may_be_files(tmp_path: Path) -> None:
    RED.save(tmp_path / "red.png")
    given = [{"type": "image", "url": str(tmp_path / "red.png")}]
    assert conversation([{"role": "user", "content": given}]).images[0].size == (4, 4)
    given[0]["url"] = str(tmp_path / "blue.png")
    with pytest.raises(DataError, match=r"blue\.png"):
        conversation([{"role": "user", "content": given}])


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_other_media_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedCallError, match=kind):
        conversation([{"role": "user", "content": [{"type": kind, "url": "x.mp4"}]}])


def test_without_a_template_text_stays_as_it_is() -> None:
    chat = Chat(Processor())
    assert chat.processor.tokenizer.padding_side == "left"
    assert chat.text(conversation(TURNS)) == "Be brief.first<image>second<image>"


def test_a_given_template_replaces_the_processors() -> None:
    chat = Chat(Processor(), "mine")
    assert chat.text(conversation(TURNS)) == "mine ['system', 'user'] True"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"temperature": 0, "top_p": 0.9, "max_new_tokens": 3, "until": ["x"]},
         {"max_new_tokens": 3, "do_sample": False}),
        ({"temperature": 0.5, "top_p": 0.9, "num_beams": 2},
         {"max_new_tokens": 1024, "do_sample": True, "temperature": 0.5, "top_p": 0.9,
          "num_beams": 2}),
        ({"do_sample": True, "temperature": 0}, {"max_new_tokens": 1024, "do_sample": False}),
        ({"do_sample": True, "top_p": None}, {"max_new_tokens": 1024, "do_sample": True}),
    ],
)  # fmt: skip
def test_generation_is_greedy_without_a_temperature(
    given: dict[str, Any], options: dict[str, Any]
) -> None:
    assert generate_options(given) == options


@pytest.mark.parametrize(
    ("until", "left"),
    [
        (["\n\n"], "A cat.\n\nIt sleeps. END more"),
        (["END", "It"], "A cat."),
        ("END", "A cat.\n\nIt sleeps."),
        (None, "A cat.\n\nIt sleeps. END more"),
        ([""], "A cat.\n\nIt sleeps. END more"),
    ],
)
def test_stop_texts_cut_the_answer(until: Any, left: str) -> None:
    assert cut(" A cat.\n\nIt sleeps. END more", {"until": until}) == left


def test_batches_hold_equal_arguments_and_every_place_once() -> None:
    given = [{"a": n % 2, "b": ["x"]} for n in range(7)]
    found = list(batches(given, 2))
    assert sorted(place for _, places in found for place in places) == list(range(7))
    assert all(len(places) <= 2 for _, places in found)
    assert all(given[place] == shared for shared, places in found for place in places)
    assert len(found) == 4
