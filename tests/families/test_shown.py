"""`show` and overlays speak of the user's picture, whatever pieces a family sees of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families.cases import CASES
from tests.families.plans import plan, staged
from tokenprune.engine.attach import attach
from tokenprune.errors import DataError
from tokenprune.interface.loading import WHOLE, LoadedMllm
from tokenprune.interface.sites import Site
from tokenprune.interface.trace import ImageTrace, TraceStep
from tokenprune.lab.data.question import Question
from tokenprune.lab.drawing.show import show
from tokenprune.lab.drawing.views import Drawn, drawn, joined, stitched
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.studies.samples import shown_samples
from tokenprune.plan import load_plan

Load = Callable[[str], LoadedMllm]

#: Rows and columns of the views of a picture of 224 x 160 pixels.
VIEWS = {
    "llava": [(6, 6)],
    "llava_next": [(4, 4), (6, 8)],
    "granite4_vision": [(4, 4), (6, 8)],
    "qwen2_5_vl": [(6, 9)],
    "internvl": [(3, 3), (6, 6)],
    "aya_vision": [(3, 3), (6, 6)],
    "cohere2_vision": [(3, 3), (6, 6)],
    "llama4": [(3, 3), (6, 6)],
    "idefics3": [(3, 3), (6, 6)],
    "mistral3": [(3, 4)],
    "gemma3": [(3, 3)],
    "molmo2": [(3, 3), (5, 5)],
}


def picture(width: int = 224, height: int = 160) -> Image.Image:
    raw = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(raw)


def seen(loaded: LoadedMllm, content: dict[str, Any], *pictures: Image.Image) -> list[Drawn]:
    inputs = loaded.prepare([list(pictures)], ["what is this?"])
    with torch.no_grad(), attach(loaded.model, load_plan(content)) as handle:
        loaded.model(**inputs)
        return drawn(loaded, pictures, handle.trace.images)


@pytest.mark.parametrize("name", CASES)
def test_every_token_has_one_place_on_the_picture(name: str, load: Load) -> None:
    (one,) = seen(load(name), staged(name, "both", 0.5), picture())
    units = np.concatenate([view.units.flatten() for view in one.views])
    assert sorted(units.tolist()) == list(range(one.trace.patches))
    shapes = [view.units.shape for view in one.views]
    assert name not in VIEWS or sorted(shapes) == VIEWS[name]
    assert [step.site.stage for step in one.trace.steps] == ["pre_llm", "decoder"]
    for step in one.trace.steps:
        survivors = step.assignment[step.assignment >= 0]
        assert sorted(set(survivors.tolist())) == list(range(step.kept))
        assert step.assignment[step.anchor].tolist() == list(range(step.kept))


def test_tiles_with_padding_stand_where_they_show_the_picture(load: Load) -> None:
    """Two by two tiles of 48 pixels, on which Llama 4 lays a picture 96 pixels wide and 68 high."""
    (one,) = seen(load("llama4"), staged("llama4", "both", 0.5), picture())
    whole, tiles = one.views
    assert whole.picture.size == (224, 160)
    assert tiles.picture.size == (224, 226)
    assert tiles.picture.crop((0, 0, 224, 160)).tobytes() == whole.picture.tobytes()


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "internvl", "idefics3", "mistral3"])
def test_several_pictures_are_told_apart(name: str, load: Load) -> None:
    content = plan({"strategy": "random", "at": "pre_llm", "keep": 0.5})
    first, second = seen(load(name), content, picture(), picture(160, 224))
    shapes = [sorted(view.units.shape for view in one.views) for one in (first, second)]
    assert shapes[0] == [shape[::-1] for shape in shapes[1]] or name in ("internvl", "idefics3")
    assert all(1 < one.trace.kept < one.trace.patches for one in (first, second))


@pytest.mark.parametrize("name", ["llava_next", "idefics3", "qwen2_vl"])
def test_a_sheet_has_a_panel_for_every_stage(name: str, load: Load) -> None:
    content = load_plan(staged(name, "both", 0.5))
    sheet = show(load(name), content, [("a.png", picture())], question="what?")
    alone = show(load(name), load_plan(plan()), [("a.png", picture())], question="what?")
    assert sheet.width > 2.5 * alone.width
    assert sheet.height >= alone.height


def test_records_hold_every_view_of_a_picture(load: Load) -> None:
    loaded = load("internvl")
    task = VqaTask(loaded, [Question(picture(), "a", "what?")], 1)
    content = load_plan(plan({"strategy": "random", "at": "pre_llm", "keep": 15}))
    (sample,) = shown_samples(task, content, loaded)
    assert sorted(frame["grid"] for frame in sample["frames"]) == [[3, 3], [6, 6]]
    owners = {tuple(frame["grid"]): frame["owner"] for frame in sample["frames"]}
    assert sum(one >= 0 for mine in owners.values() for one in mine) == 15
    assert all(one in (-1, place) for place, one in enumerate(owners[3, 3], start=36))
    assert all(frame["picture"].startswith("data:image/jpeg") for frame in sample["frames"])


def step(slots: list[int], anchor: list[int]) -> TraceStep:
    return TraceStep(Site("pre_llm", 0, 0), "toy", torch.tensor(slots), torch.tensor(anchor))


def test_tiles_stand_where_they_were_cut() -> None:
    tiles = [ImageTrace((1, 1, 2), ())] * 5
    boxes = [(0.5, 0.0, 1.0, 0.49), (0.0, 0.001, 0.5, 0.5), (0.5, 0.5, 1.0, 1.0), WHOLE]
    boxes.append((0.001, 0.5, 0.5, 1.0))
    whole, stitch = stitched(picture(), tiles, boxes)
    assert whole.units.tolist() == [[6, 7]]
    assert stitch.units.tolist() == [[2, 3, 0, 1], [8, 9, 4, 5]]


def test_maps_without_a_common_grid_are_views_of_their_own() -> None:
    trace = ImageTrace((1, 1, 10), (), ((2, 2), (2, 3)))
    first, second = stitched(picture(), [trace], [WHOLE])
    assert first.units.tolist() == [[0, 1], [2, 3]]
    assert second.units.tolist() == [[4, 5, 6], [7, 8, 9]]


def test_pieces_are_joined_token_by_token() -> None:
    first = ImageTrace((1, 1, 3), (step([0, -1, 1], [0, 2]), step([-1, -1, 0], [2])))
    second = ImageTrace((1, 1, 2), (step([0, 0], [1]),))
    found = joined([first, second])
    assert [one.assignment.tolist() for one in found.steps] == [
        [0, -1, 1, 2, 2],
        [-1, -1, 0, 1, 1],
    ]
    assert [one.anchor.tolist() for one in found.steps] == [[0, 2, 4], [2, 4]]
    assert found.shapes == ((1, 3), (1, 2))


def test_traces_of_other_pictures_are_refused(load: Load) -> None:
    with pytest.raises(DataError, match="2 pictures can't be drawn from what became of 3 pieces"):
        drawn(load("qwen2_vl"), [picture()] * 2, [ImageTrace((1, 2, 2), ())] * 3)


def test_the_command_writes_a_picture(folder: Callable[[str], Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from tokenprune.cli.app import app

    picture().save(tmp_path / "a.png")
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 0.5}]")
    command = f"show {tmp_path / 'a.png'} --plan {tmp_path / 'p.yaml'} --model {folder('smolvlm')}"
    result = CliRunner().invoke(app, f"{command} --question what --out {tmp_path / 'x.png'}")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.width > sheet.height
