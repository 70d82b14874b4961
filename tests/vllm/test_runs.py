"""Runs of placeholders from a config alone: counts, what stays of features, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from tokenprune_adapters.vllm.hook import started
from tokenprune_adapters.vllm.runs import ServedRuns, runs_of, spelled
from tokenprune_adapters.vllm.serving import served_plan
from torch import nn

from tests.families.cases import CASES
from tests.families.models.common import BREAK, END, IMAGE, START
from tests.families.scenes import Image
from tests.vllm.test_serving import run
from tokenprune.errors import (
    BudgetError,
    LayerError,
    PlanError,
    SignalError,
    UnsupportedModelError,
)

HALF = {"at": "pre_llm", "strategy": "divprune", "keep": 0.5}
UNIFORM = {"at": "pre_llm", "strategy": "uniform", "keep": 5}
TILE = {"at": "pre_llm", "strategy": "divprune", "keep": {"per_tile": 3}}
SHOWN = {
    "internvl": (Image(48, 96), (1, 1, 27), 3),
    "idefics3": (Image(48, 96), (1, 1, 27), 3),
    "smolvlm": (Image(48, 48), (1, 3, 3), 1),
    "mistral3": (Image(48, 64), (1, 3, 4), None),
}


def compact(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"positions": "compact", "stages": list(stages)}


def runs(name: str, *stages: dict[str, Any]) -> ServedRuns:
    served = served_plan(CASES[name].config(), compact(*stages))
    assert isinstance(served, ServedRuns)
    return served


def ids_of(name: str, image: Image) -> list[int]:
    """What stands for a picture in the prompts of a case."""
    case: Any = CASES[name]
    found: list[int] = case.image_ids(image, ())
    return found


@pytest.mark.parametrize("name", SHOWN)
def test_tokens_of_pictures(name: str) -> None:
    image, grid, pieces = SHOWN[name]
    shown = runs_of(ids_of(name, image), IMAGE)
    assert sum(shown) == grid[1] * grid[2]
    assert runs(name).shape(shown)[0] == grid
    assert runs(name).left(shown) == sum(shown)
    assert runs(name, HALF).left(shown) == sum(shown) // 2
    assert runs(name, UNIFORM).left(shown) == 5
    assert runs(name, TILE).left(shown) == 3 * (pieces or 1)
    with pytest.raises(BudgetError, match=f"30 of {sum(shown)}"):
        runs(name, {**HALF, "keep": 30}).left(shown)


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_left_of_a_picture_stands_in_its_order_with_the_text(name: str) -> None:
    ids = torch.tensor(ids_of(name, SHOWN[name][0]))
    units = ids == IMAGE
    places = torch.arange(float(len(ids)))
    # features and embeddings tell the places of what they are of
    text = iter(places[~units])

    def embed(asked: torch.Tensor) -> torch.Tensor:
        assert asked.tolist() == ids[~units].tolist()
        return torch.stack([next(text) for _ in asked])[:, None].expand(-1, 4)

    left = runs(name, UNIFORM).kept(
        places[units][:, None].expand(-1, 4), runs_of(ids.tolist(), IMAGE)
    )
    made = spelled(left, ids, IMAGE, embed)
    found = made[:, 0].tolist()
    assert found == sorted(found)
    assert len(found) == 5 + int((~units).sum())
    assert set(places[~units].tolist()) < set(found)


@pytest.mark.parametrize(
    ("name", "seen", "others"),
    [
        ("mistral3", (3, 48, 64), [(3, 64, 48), (3, 24, 32)]),
        ("llava_pixtral", (3, 24, 32), [(3, 48, 64)]),
        ("idefics3", (3, 3, 48, 48), [(2, 3, 48, 48), (3, 3, 24, 24)]),
        ("internvl", (3, 3, 48, 48), [(1, 3, 48, 48)]),
    ],
)
def test_pixels_that_fit_the_runs(
    name: str, seen: tuple[int, ...], others: list[tuple[int, ...]]
) -> None:
    shown = [9] * 3 if len(seen) == 4 else [4] * 3
    assert runs(name, HALF).fits(shown, seen)
    assert not any(runs(name, HALF).fits(shown, one) for one in others)


def test_runs_of_placeholders() -> None:
    row = [IMAGE, IMAGE, BREAK]
    assert runs_of([START, *row, *row, IMAGE, END], IMAGE) == [2, 2, 1]
    assert runs_of([START, END], IMAGE) == []


def changed(name: str, changes: dict[str, Any]) -> Any:
    """The config of a case with other values, of its parts where a name has a dot."""
    config: Any = CASES[name].config()
    for place, value in changes.items():
        part, _, key = place.rpartition(".")
        setattr(getattr(config, part) if part else config, key, value)
    return config


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("internvl", {"vision_feature_layer": -2}, "features of -2"),
        ("internvl", {"vision_feature_select_strategy": "full"}, "features of 'full'"),
        ("internvl", {"vision_config.image_size": [48, 96]}, "96 x 48 pixels are no squares"),
        ("mistral3", {"vision_feature_layer": [-1, -2]}, "several layers"),
        ("gemma3", {}, "sliding windows, which vLLM counts"),
        # one window for all layers, as Mistral's first
        ("mistral3", {"text_config.sliding_window": 4096}, "sliding windows, which vLLM counts"),
        (
            "internvl",
            {
                "text_config.layer_types": ["sliding_attention"] * 4,
                "text_config.sliding_window": 8,
            },
            "sliding windows, which vLLM counts",
        ),
    ],
)
def test_models_that_are_not_served(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        served_plan(changed(name, changes), compact(HALF))


INSIDE = {"at": "encoder", "strategy": "evoprune", "keep": 6}
BEHIND = {"at": "pre_llm", "strategy": "fopru", "keep": 0.5}
RESTORED = {"at": "encoder", "strategy": "ipcv", "layer": 2}
UNTRAINED = {"init_seed": 0, "dim": 16, "text_dim": 16}


@pytest.mark.parametrize("name", ["internvl", "idefics3"])
def test_stages_in_the_tower_act_in_every_tile_and_those_behind_it_on_the_picture(
    name: str,
) -> None:
    assert runs(name, INSIDE).left([9]) == 6
    assert runs(name, INSIDE).left([9] * 3) == 3 * 6
    assert runs(name, INSIDE, BEHIND).left([9] * 3) == 3 * 6 // 2
    assert runs(name, INSIDE, TILE).left([9] * 5) == 5 * 3
    assert runs(name, {**BEHIND, "keep": 20}).left([9] * 3) == 20
    with pytest.raises(BudgetError, match="20 of 18"):
        runs(name, INSIDE, {**BEHIND, "keep": 20}).left([9] * 3)
    shown = {one.dense: one.left for one in runs(name, INSIDE, BEHIND).pictures()}
    assert (shown[9], shown[27], shown[117]) == (3, 9, 39)


def test_stages_in_the_tower_of_rows() -> None:
    half, picture = {**INSIDE, "keep": 0.5}, [4] * 3
    assert runs("mistral3", half).left(picture) == 6
    assert runs("mistral3", half, BEHIND).left(picture) == 3
    assert runs("mistral3", BEHIND).left(picture) == 6
    assert runs("mistral3", {**RESTORED, "keep": 0.5}).left(picture) == 12
    few = changed("mistral3", {"vision_feature_layer": -3})
    assert runs("mistral3", {**INSIDE, "keep": 0.3}).left([8] * 8) == 19
    with pytest.raises(BudgetError, match="each of its 1 blocks"):
        served_plan(few, compact({**INSIDE, "keep": 0.3}))
    with pytest.raises(LayerError, match="blocks 2 to 3"):
        served_plan(few, compact({**INSIDE, "layers": [2, 3]}))
    shown = {one.size: one.left for one in runs("mistral3", {**INSIDE, "keep": 100}).pictures()}
    assert [shown["128 x 128"], shown["192 x 192"]] == [None, 100]


@pytest.mark.parametrize(
    ("stages", "error", "words"),
    [
        ([{**INSIDE, "keep": 12}], BudgetError, "12"),
        ([{**BEHIND, "keep": 5000}], BudgetError, "5000"),
        ([{**BEHIND, "strategy": "quecc", "params": UNTRAINED}], SignalError, "quecc"),
        (
            [{**BEHIND, "strategy": "vistog", "params": {"init_seed": 0, "dim": 32}}],
            SignalError,
            "vistog",
        ),
    ],
)
@pytest.mark.parametrize("name", ["internvl", "idefics3"])
def test_what_the_tower_of_tiles_cannot_serve(
    name: str, stages: list[dict[str, Any]], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        runs(name, *stages)
    if name == "idefics3":  # without a class token
        with pytest.raises(SignalError):
            runs(name, {"at": "pre_llm", "strategy": "visionzip", "keep": 5})


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        ({"stages": [HALF]}, PlanError, "positions: compact"),
        (compact({**INSIDE, "layers": [2, 9]}), LayerError, "blocks 2 to 9"),
        (compact({**BEHIND, "strategy": "visionzip"}), SignalError, "isn't there in vLLM"),
        (compact({**HALF, "keep": 5000}), BudgetError, "5000"),
        (compact({**INSIDE, "keep": 1}), BudgetError, "at most half"),
    ],
)
def test_plans_that_are_not_served(
    plan: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        served_plan(CASES["mistral3"].config(), plan)


def test_the_command_line_tells_the_counts_and_why_not(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(compact(UNIFORM)))
    for name in ("internvl", "gemma3"):
        config = CASES[name].config()
        config.architectures = [CASES[name].model_class]
        config.save_pretrained(tmp_path / name)
    code, out = run("vllm", "check", plan, tmp_path / "internvl")
    assert code == 0, out
    rows = [line.split() for line in out.splitlines()]
    (row,) = [row for row in rows if row[1:4] == ["192", "x", "144"]]
    assert (row[5], row[7]) == ("117", "5")
    code, out = run("vllm", "args", plan, tmp_path / "internvl")
    overrides = json.loads(out[out.index("{") : out.rindex("}") + 1])
    assert overrides["architectures"] == ["TokenpruneInternVLForConditionalGeneration"]
    assert "117 -> 5 visual tokens per image of 192 x 144" in started(runs("internvl", UNIFORM), 2)
    for command in ("check", "args"):
        code, out = run("vllm", command, plan, tmp_path / "gemma3")
        assert code == 2
        assert "sliding windows" in out


def test_a_budget_above_a_pictures_tokens_is_the_requests_error() -> None:
    pytest.importorskip("vllm", reason="prompts are made in vLLM's own environment, see .ci/vllm")
    from tokenprune_adapters.vllm.placeholders import filled, shortened

    def whole(ids: list[int]) -> Any:
        details = SimpleNamespace(full=ids)
        return SimpleNamespace(modality="image", target=[IMAGE], replacement=lambda _: details)

    tile, tiles = ids_of("internvl", Image(48, 48)), ids_of("internvl", Image(48, 96))
    left = runs("internvl", {**UNIFORM, "keep": 12}).left
    assert shortened(whole(tiles), IMAGE, left).replacement(0).full == [START, *[IMAGE] * 12, END]
    spelled = ids_of("idefics3", Image(48, 96))
    first, last = spelled.index(IMAGE), len(spelled) - spelled[::-1].index(IMAGE)
    text = [one for one in spelled[first:last] if one != IMAGE]
    made = filled(whole(spelled), IMAGE, left).replacement(0)
    assert made.full == [*spelled[:first], *[IMAGE] * 12, *text, *spelled[last:]]
    embedded = made.is_embed(None).nonzero().flatten().tolist()
    assert embedded == [*range(first, first + 12 + len(text))]
    for make in (shortened, filled):
        with pytest.raises(ValueError, match="12 of 9"):
            make(whole(tile), IMAGE, left).replacement(0)


def test_words_among_tokens_are_without_what_an_adapter_adds() -> None:
    """An adapter belongs to a request, and a picture is cached for all of them."""
    pytest.importorskip("vllm", reason="models are built in vLLM's own environment, see .ci/vllm")
    from tokenprune_adapters.vllm.spelled import SpelledPictures

    class Adapted(nn.Module):
        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            raise AssertionError("the adapter of whichever request is in the batch")

    class Model(SpelledPictures):
        config = changed("mistral3", {"tokenprune_plan": compact(UNIFORM)})

        def whole(self, given: Any) -> list[torch.Tensor]:
            return [torch.ones(12, 4)]

        def get_language_model(self) -> nn.Module:
            llm = nn.Module()
            llm.model = nn.Module()
            llm.model.embed_tokens = Adapted(nn.Embedding.from_pretrained(torch.zeros(200, 4)))
            return llm

    ids = ids_of("mistral3", SHOWN["mistral3"][0])
    inner = torch.tensor(ids[ids.index(IMAGE) : len(ids) - ids[::-1].index(IMAGE)])
    (made,) = Model().embed_multimodal(tokenprune_ids=[inner])
    assert made[:, 0].tolist().count(0.0) == int((inner != IMAGE).sum()) > 0
    assert len(made) == 5 + int((inner != IMAGE).sum())
