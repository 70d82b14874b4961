"""The probe on every family: what it reads of pictures, of their tiles, and of clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.families.calls import case_of
from tests.families.cases import CASES
from tests.families.cells import UNFOLLOWED
from tests.families.plans import decoder, plan, staged
from tokenprune.cli.app import app
from tokenprune.engine.adapters import choose_adapter
from tokenprune.errors import DataError
from tokenprune.interface.adapter import MllmAdapter
from tokenprune.interface.loading import LoadedMllm
from tokenprune.lab.compare.retention import Retention
from tokenprune.lab.data.pictures import heldout_questions
from tokenprune.lab.measure.task import VqaTask
from tokenprune.lab.probe.capture import Reader
from tokenprune.lab.probe.fit import fit_probe
from tokenprune.lab.probe.states import States
from tokenprune.plan import load_plan

Load = Callable[[str], LoadedMllm]
PLACES = ("encoder", "projector", "llm:0", "llm:3")
LLAVA = ("llava", "llava-siglip")
RESIZED = "llava_onevision-resized"
"""Its pictures' features are resized, as are those of every clip of its family."""
NAMES = [name for name in CASES if name not in (*LLAVA, *UNFOLLOWED, RESIZED)]
CLIPS = [name for name in NAMES if CASES[name].clip and name != "llava_onevision"]


def read(name: str, scene: str, *stages: dict[str, Any]) -> tuple[Reader, dict[str, States], Any]:
    case = case_of(name, scene)
    model, call = case.build(), case.inputs(scene)
    reader = Reader(model, PLACES)
    full, target = reader.dense(call)
    if not stages:
        return reader, full, target
    return reader, full, reader.read(load_plan(plan(*stages)), call)


@contextmanager
def noted(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module puts out, call by call."""
    found: list[Tensor] = []

    def keep(_: nn.Module, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = module.register_forward_hook(keep)
    yield found
    handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_dense_states_are_the_models_own(name: str) -> None:
    case = case_of(name)
    model, call = case.build(), case.inputs("one")
    reader, full, target = read(name, "one")
    adapter = choose_adapter(model)
    assert isinstance(adapter, MllmAdapter)
    with torch.no_grad(), noted(adapter.spec().layers[0]) as behind:
        model(**call)
    visual = case.placeholders(call)[0]
    states = behind[0][0][visual].flatten(1)
    (hidden,), (place,) = zip(*full["llm:0"].rows(), strict=True)
    frames, height, width = reader.grid
    # separators are among the placeholders, and no tokens
    rows = (hidden[:, None] == states[None]).all(-1)
    assert rows.any(dim=1).all()
    assert rows.int().argmax(dim=1).diff().min() > 0
    raster = (place[:, 0] * height + place[:, 1]) * width + place[:, 2]
    assert raster.diff().min() > 0
    shown = torch.ones(frames, height * width) if reader.shown is None else reader.shown
    assert int(shown.sum()) == len(raster)
    assert target.shape[:3] == (1, frames, height * width)
    assert bool((target[0].abs().sum(-1) > 0).eq(shown.bool()).all())
    for states in full.values():
        assert torch.equal(states.position, full["llm:0"].position)


def test_features_of_a_packed_tower_are_means_of_units() -> None:
    case = case_of("qwen2_vl")
    model, call = case.build(), case.inputs("one")
    _, _, target = read("qwen2_vl", "one")
    blocks = model.model.visual.blocks
    with torch.no_grad(), noted(blocks[len(blocks) - 2]) as behind:
        model(**call)
    torch.testing.assert_close(target[0, 0], behind[0].unflatten(0, (-1, 4)).mean(1))


def test_features_of_tiles_stand_on_their_own_maps() -> None:
    case = case_of("internvl")
    model, call = case.build(), case.inputs("two_sizes")
    call = {name: value[1:] for name, value in call.items()}
    tiles = call["pixel_values"]
    reader = Reader(model, PLACES)
    _, target = reader.dense(call)
    blocks = model.model.vision_tower.encoder.layer
    with torch.no_grad(), noted(blocks[len(blocks) - 2]) as behind:
        model.model.vision_tower(tiles)
    patches = behind[0][:, 1:].unflatten(1, (6, 6))
    assert target.shape[1] == len(tiles)
    for tile in range(len(tiles)):
        for row in range(3):
            for column in range(3):
                square = patches[tile, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                mean = square.flatten(0, 1).mean(0)
                torch.testing.assert_close(target[0, tile, 3 * row + column], mean)


@pytest.mark.parametrize("name", NAMES)
def test_pruned_states_are_the_survivors_with_their_places(name: str) -> None:
    inside = {"strategy": "random", "at": "encoder", "keep": 0.75}
    early = {"strategy": "uniform", "at": "pre_llm", "keep": 0.5}
    stages = [inside, early, decoder(name, 0.5)]
    _, full, found = read(name, "one", *stages)
    counts = {place: int(states.mask.sum()) for place, states in found.items()}
    units = int(full["projector"].mask.sum())
    assert units > counts["encoder"] >= counts["projector"] >= counts["llm:3"] > 0
    places = {
        place: {tuple(row) for row in states.position[0].tolist()}
        for place, states in found.items()
    }
    assert places["llm:3"] <= places["projector"] <= places["encoder"]
    _, full, only = read(name, "one", early)
    assert torch.equal(only["encoder"].hidden, full["encoder"].hidden)
    at = {tuple(row): n for n, row in enumerate(full["projector"].position[0].tolist())}
    rows = [at[tuple(row)] for row in only["projector"].position[0].tolist()]
    assert torch.equal(only["projector"].hidden[0], full["projector"].hidden[0, rows])


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_read_frame_by_frame(name: str) -> None:
    case = case_of(name, "video")
    reader = Reader(case.build(), PLACES)
    full, target = reader.dense(case.inputs("video"))
    assert reader.grid[0] > 1
    assert target.shape[:2] == (2, reader.grid[0])
    assert all(len(states) == 2 for states in full.values())
    for states in full.values():
        assert set(states.position[0, :, 0].tolist()) == set(range(reader.grid[0]))


@pytest.mark.parametrize(("name", "scene"), [(RESIZED, "one"), ("llava_onevision", "video")])
def test_tokens_of_several_patches_have_no_features(name: str, scene: str) -> None:
    case = case_of(name, scene)
    with pytest.raises(DataError, match="no features of single tokens") as caught:
        Reader(case.build(), PLACES).dense(case.inputs(scene))
    assert "can't be followed through its tower" in caught.value.message


def test_pictures_of_two_grids_are_refused() -> None:
    case = case_of("qwen2_vl")
    with pytest.raises(DataError, match="fitted to one grid"):
        Reader(case.build(), PLACES).dense(case.inputs("two_sizes"))


def test_places_without_a_unit_are_neither_fitted_nor_scored() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 2, 4, 8, generator=generator)
    shown = torch.tensor([[True] * 4, [True, False, True, False]])
    other = target.masked_fill(~shown[:, :, None], 7.0)
    hidden = torch.randn(6, 3, 5, generator=generator)
    position = torch.zeros(6, 3, 3, dtype=torch.long)
    states = States(hidden, position, torch.ones(6, 3, dtype=torch.bool))
    one, two = (
        fit_probe(states, each, (2, 2, 2), shown=shown, epochs=2) for each in (target, other)
    )
    assert torch.equal(one.mean_score(states, target), two.mean_score(states, other))
    loop = [
        sum(row[frame, cell] for frame in range(2) for cell in range(4) if shown[frame, cell]) / 6
        for row in one.score(states, target)
    ]
    torch.testing.assert_close(one.mean_score(states, target), torch.stack(loop))


@pytest.mark.parametrize("name", ["llava_next", "internvl"])
def test_nothing_removed_is_one(name: str, load: Load) -> None:
    task = VqaTask(load(name), heldout_questions(4), 2)
    metric = Retention(task, ("encoder", "llm:3"), fit=4, scored=4)
    kept = load_plan(plan({"strategy": "uniform", "at": "pre_llm", "keep": 1.0}))
    nothing, some = metric.measure([kept, load_plan(staged(name, "pre_llm", 0.5))])
    assert nothing["encoder"].value == pytest.approx(1.0)
    assert nothing["llm:3"].value == some["encoder"].value == pytest.approx(1.0)
    assert some["llm:3"].value != pytest.approx(1.0)


def test_compare_takes_the_probe_on_a_family(
    folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Retention.__init__

    def small(self: Retention, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs, fit=16, scored=16)

    monkeypatch.setattr(Retention, "__init__", small)
    (tmp_path / "p.yaml").write_text("stages: [{at: pre_llm, strategy: random, keep: 0.5}]")
    out = tmp_path / "c.json"
    given = ["compare", "--model", str(folder("qwen2_5_vl")), "--plans", str(tmp_path / "p.yaml")]
    given += ["--probe", "all", "--limit", "2", "--task", "video", "--out", str(out)]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(out.read_text())["results"]
    assert set(row["probe"]) == {"encoder", "projector", "llm:2", "llm:3"}
    assert row["probe"]["encoder"]["value"] == pytest.approx(1.0)
