"""Clips of Qwen2.5-VL and Qwen3-VL in vLLM: positions as of whole clips, ids as of `attach`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.families.cases import CASES
from tests.families.models.common import END, IMAGE, START, VIDEO, VOCABULARY
from tests.families.processors import RECIPES
from tests.families.tokenizer import tokenizer
from tests.vllm.conftest import Engines, attached, request
from tests.vllm.test_families import BLOCK, CHUNKED, FAMILIES, plan

pytest.importorskip("vllm", reason="engines run in vLLM's own environment, see .ci/vllm")

NAMES = ("qwen2_5_vl", "qwen3_vl")
CLIP = "<|vision_start|><|video_pad|><|vision_end|>"
GRIDS = {"video": (4, 6, 10), "image": (1, 12, 8)}
SECONDS, MOMENTS = torch.tensor([1.7]), [0.2, 3.1, 10.0, 128.4]
LEVELS = {"qwen2_5_vl": 1, "qwen3_vl": 3}
"""Widths of features, in widths of the LLM."""
PLANS = {
    "dense": {"stages": []},
    "evs": plan({}, {"strategy": "evs", "keep": 6}),
    "random": plan({}, {"strategy": "random", "keep": 0.4}),
}


def bare(name: str, stages: dict[str, Any]) -> Any:
    """The served class without a tower; the embedding of a word is its id, negative."""
    from tokenprune_adapters.vllm import qwen_vl

    model: Any = object.__new__(getattr(qwen_vl, f"Tokenprune{CASES[name].model_class}"))
    nn.Module.__init__(model)
    model.config = CASES[name].config()
    model.config.tokenprune_plan = stages
    model._tokenizer = tokenizer(RECIPES[name].special, RECIPES[name].named)
    width = model.config.vision_config.out_hidden_size
    table = -1.0 - torch.arange(float(VOCABULARY))[:, None].expand(-1, width)
    llm = nn.Module()
    llm.embed_tokens = nn.Embedding.from_pretrained(table)
    model.get_language_model = lambda: llm
    return model


def items(name: str, model: Any) -> dict[str, tuple[list[int], Tensor, Any]]:
    """Of a clip and a picture: ids in a whole prompt, what the plan leaves, and data."""
    width = LEVELS[name] * model.config.vision_config.out_hidden_size
    found = {}
    for kind, grid in GRIDS.items():
        places = grid[0] * grid[1] * grid[2] // 4
        features = torch.arange(float(places))[:, None].expand(-1, width)
        given = {
            "type": "pixel_values" if kind == "image" else "pixel_values_videos",
            f"{kind}_grid_thw": torch.tensor([grid]),
            "second_per_grid_ts": SECONDS,
            "timestamps": [MOMENTS],
        }
        (left,) = getattr(model, f"_postprocess_{kind}_embeds_evs")([features], given)
        ids = [{"image": IMAGE, "video": VIDEO}[kind]] * places
        if kind == "video" and name == "qwen3_vl":
            frame = places // grid[0]
            ids = [one for at in MOMENTS for one in framed(model, at, frame)]
        data = {
            f"{kind}_grid_thw": SimpleNamespace(data=torch.tensor(grid)),
            "second_per_grid_ts": SimpleNamespace(data=SECONDS[0]),
        }
        found[kind] = (ids, left, data)
    return found


def framed(model: Any, moment: float, places: int) -> list[int]:
    """A frame of Qwen3-VL in a prompt."""
    words = model._tokenizer.encode(f"<{moment:.1f} seconds>", add_special_tokens=False)
    return [*words, START, *[VIDEO] * places, END]


def prompt(parts: Sequence[tuple[str, list[int], Any]]) -> tuple[list[int], list[Any]]:
    """Ids of a prompt of items with words between, and where the items are."""
    ids, shown = [20, 21], []
    for kind, own, data in parts:
        position = SimpleNamespace(offset=len(ids) + 1, length=len(own))
        shown.append(SimpleNamespace(modality=kind, data=data, mm_position=position))
        ids += [START, *own, END, 22, 23]
    return ids, shown


def filled(
    model: Any, ids: list[int], shown: list[Any], rows: list[Tensor], positions: Tensor, step: int
) -> tuple[Tensor, int]:
    """Positions behind a prefill of so many tokens at a time, as vLLM's runner does it."""
    delta = 0
    for computed in range(0, len(ids), step):
        hand = []
        for one, left in zip(shown, rows, strict=True):
            start = max(computed - one.mm_position.offset, 0)
            end = min(computed + step - one.mm_position.offset, one.mm_position.length)
            hand += [left[start:end]] if start < end else []
        bare, positions, delta = model.recompute_mrope_positions(ids, hand, positions, computed)
        assert [len(one) for one in bare] == [len(one) for one in hand]
        assert int(positions[:, : computed + step].min()) >= 0, "known when they are needed"
    return positions, delta


@pytest.mark.parametrize("order", [("video", "image"), ("image", "video"), ("video", "video")])
@pytest.mark.parametrize("stages", PLANS)
@pytest.mark.parametrize("name", NAMES)
def test_survivors_and_words_stand_where_whole_clips_put_them(
    name: str, stages: str, order: tuple[str, str]
) -> None:
    model = bare(name, PLANS[stages])
    shown = items(name, model)
    whole, where = prompt([(kind, shown[kind][0], shown[kind][2]) for kind in order])
    own: Any = type(model).__mro__[3]
    assert own.__name__ == CASES[name].model_class
    dense, dense_delta = own.get_mrope_input_positions(model, whole, where)

    pads = {"image": IMAGE, "video": VIDEO}
    left = [shown[kind][1] for kind in order]
    kept = [[pads[kind]] * len(rows) for kind, rows in zip(order, left, strict=True)]
    data = [shown[kind][2] for kind in order]
    ids, places = prompt(list(zip(order, kept, data, strict=True)))
    positions, delta = model.get_mrope_input_positions(ids, places)
    assert delta == dense_delta + len(whole) - len(ids)
    for step in (len(ids), 7, 1, len(ids)):  # from the second on, a prompt that starts again
        positions, delta = filled(model, ids, places, left, positions, step)
        assert delta == dense_delta + len(whole) - len(ids)

    counterpart = list(range(len(ids)))
    for number, (one, rows) in enumerate(zip(places, left, strict=True)):
        start, length = one.mm_position.offset, one.mm_position.length
        longer = where[number].mm_position.length - length
        own_ids = shown[order[number]][0]
        features = [at for at, word in enumerate(own_ids) if word == pads[order[number]]]
        words = iter(at for at, word in enumerate(own_ids) if word != pads[order[number]])
        stand = [features[int(row)] if row >= 0 else next(words) for row in rows[:, 0].tolist()]
        assert stand == sorted(set(stand))
        assert next(words, None) is None, "all words stand"
        for row, at in zip(rows.tolist(), stand, strict=True):
            assert row[0] >= 0 or row[0] == -1.0 - own_ids[at]
        shift = where[number].mm_position.offset
        counterpart[start : start + length] = [shift + at for at in stand]
        behind = range(start + length, len(ids))
        counterpart[start + length :] = [counterpart[at] + longer for at in behind]
    assert torch.equal(positions, dense[:, counterpart])


def behind_time(original: Callable[..., Any]) -> Callable[..., Any]:
    """Text behind a clip is numbered from its last moment on, if that is more than its sides.

    So do vLLM, and transformers before 5.3.
    """

    def numbered(
        self: Any, input_ids: Tensor, mm_token_type_ids: Tensor, *rest: Any, **more: Any
    ) -> tuple[Tensor, Tensor]:
        positions, _ = original(self, input_ids, mm_token_type_ids, *rest, **more)
        row, start, shift = positions[:, 0], 0, 0
        for kind, group in groupby(mm_token_type_ids[0].tolist()):
            end = start + len(list(group))
            row[:, start:end] += shift
            if kind == 2:
                shift += max(0, int(row[:, start:end].max()) + 1 - int(row[0, end]) - shift)
            start = end
        return positions, positions.max().view(1, 1) + 1 - input_ids.shape[1]

    return numbered


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_attach(
    name: str, engines: Engines, folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Qwen2_5_VLModel

    monkeypatch.setattr(
        Qwen2_5_VLModel, "get_rope_index", behind_time(Qwen2_5_VLModel.get_rope_index)
    )
    picture, rest, model = RECIPES[name].picture, FAMILIES[name], folder(name)
    short, slow = [0, 6, 32, 40, 2.0], [1, 8, 24, 40, 1.0]
    one = {"text": f"{CLIP}what happens?", "clips": [short]}
    two = {
        "text": f"x{CLIP}, {picture} and {CLIP}?",
        "clips": [slow, short],
        "pictures": [[1, 64, 40]],
    }
    prompts = [one, two, one]
    half = plan(rest, {"strategy": "divprune", "keep": 0.5})
    few = plan(rest, {"strategy": "random", "keep": 0.8}, {"strategy": "vidcom2", "keep": 4})
    merged = {"at": "encoder", "strategy": "evoprune", "keep": 0.6, "params": {"temporal": True}}
    inside = plan(rest, merged, {"strategy": "fopru", "keep": 0.5})
    dense, whole, chunked, followed = engines(
        request(None, prompts, model, options=BLOCK),
        request(half, prompts, model, options=BLOCK, count=True, again=True),
        request(few, prompts, model, options={**BLOCK, **CHUNKED}, again=True),
        request(inside, prompts, model, options=BLOCK),
    )
    assert dense["ids"] == attached({}, prompts, model)
    assert whole["ids"] == whole["again"] == attached(half, prompts, model)
    assert chunked["ids"] == chunked["again"] == attached(few, prompts, model)
    assert followed["ids"] == attached(inside, prompts, model)
    assert dense["ids"] != whole["ids"] != chunked["ids"], "a plan that changes no answer"
    assert followed["ids"] not in (dense["ids"], whole["ids"])
    assert whole["cached"] > 0 < chunked["cached"], "tokens out of the prefix cache"
    assert len(whole["passes"]) == 3, "the tower sees each clip and picture once"
    lengths = zip(dense["lengths"], whole["lengths"], chunked["lengths"], strict=True)
    assert all(a > max(b, c) for a, b, c in lengths)
