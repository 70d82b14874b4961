"""What the detail model is trained on, against plain loops, and how it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tokenprune.reference import (
    DETAIL_TYPES,
    DetailScene,
    Item,
    reference_model_path,
    sample_detail_scene,
)
from tokenprune.reference.questions import RELATIONS
from training.detail_model.data import ASKING, DataPlan, DetailBatch, anchors, drawer
from training.detail_model.model import PATCHES, build_model, stretch_places
from training.detail_model.sides import DOUBT, neighbours
from training.detail_model.stages import STAGES
from training.detail_model.train import Trainer
from training.detail_model.vocab import WORDS
from training.reference_model.data import IGNORE
from training.reference_model.vocab import WORDS as SMALL_WORDS
from training.shared.asking import load_weights
from training.shared.drawing import Arrays, drawn
from training.shared.recipe import scaled

PLAN = DataPlan(batch=3, questions=6, weights=(1.0,) * len(DETAIL_TYPES))


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(0)


@pytest.fixture(scope="module")
def batch() -> DetailBatch:
    return DetailBatch.of(drawer(PLAN, 1)(np.random.default_rng(1)))


def zone(scene: DetailScene, anchor: Item, phrase: str, near: float, wide: float) -> list[Item]:
    """What lies in a box on one side of an item, by four plain cases."""
    inside = []
    for item in scene.items:
        right, down = item.x - anchor.x, item.y - anchor.y
        along = {"left of": -right, "right of": right, "above": -down, "below": down}[phrase]
        across = down if phrase.endswith("of") else right
        if item is not anchor and 0 < along <= near and abs(across) <= wide:
            inside.append(item)
    return inside


def test_neighbours_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(5)
    met = set()
    for _ in range(20):
        scene = sample_detail_scene(rng)
        for item, row in zip(scene.items, neighbours(scene), strict=True):
            for phrase, other in zip(RELATIONS, row.tolist(), strict=True):
                near, around = (zone(scene, item, phrase, *box) for box in ((22, 6), (27, 11)))
                clear = len(near) == len(around) <= 1
                found = scene.items.index(near[0]) if near else -1
                assert other == (found if clear else DOUBT)
                met.add(min(other, 0))
    assert met == {0, -1, DOUBT}


def test_labels_agree_with_each_other(batch: DetailBatch) -> None:
    owned = batch.owner >= 0
    assert torch.equal(owned, owned & batch.touched)
    assert not (batch.anchor & ~owned).any()
    assert torch.equal(batch.anchor.sum(1), batch.items)
    assert torch.equal(batch.numbers.sum(1), batch.items.float())
    assert (batch.kind[owned] < 18).all()
    assert (batch.kind[~batch.touched] == 18).all()
    assert (batch.beside[~owned] == IGNORE).all()
    for row in range(len(owned)):
        mine = batch.kind[row][batch.anchor[row]]
        assert torch.equal(torch.bincount(mine, minlength=18), batch.numbers[row].long())
    said = batch.words.gather(2, batch.answer_at.unsqueeze(-1) + 1).squeeze(-1)
    assert torch.equal(said, batch.answer)


def test_anchors_hold_the_centres() -> None:
    items = (Item("star", "red", 7.5, 159.0, 12, 0), Item("ring", "red", 8.0, 0.0, 12, 0))
    assert anchors(DetailScene(items)).tolist() == [380, 1]


def test_the_longest_question_fits() -> None:
    ids, at = ASKING.encode("how many yellow triangles are there ?", "seven")
    assert WORDS[ids[at]] == "?"
    assert WORDS[ids[at + 1]] == "seven"
    assert len(ids) == ASKING.length


def test_it_starts_from_the_small_model() -> None:
    small = load_weights(str(reference_model_path()))
    ours = dict(build_model(0).named_parameters())
    table = "model.language_model.embed_tokens.weight"
    places = "model.vision_tower.embeddings.position_embedding.weight"
    assert WORDS[: len(SMALL_WORDS)] == SMALL_WORDS
    assert torch.equal(ours[table][: len(SMALL_WORDS)], small[table])
    assert ours[table].shape[0] == len(WORDS)
    assert torch.equal(ours[places][0], small[places][0])
    assert ours[places].shape[0] == 1 + PATCHES
    rest = [name for name in small if name not in (table, places)]
    assert all(torch.equal(ours[name], small[name]) for name in rest)


def test_places_are_stretched_smoothly() -> None:
    grid = torch.arange(14.0)
    ramp = torch.stack([grid.repeat(14), grid.repeat_interleave(14)], 1)
    larger = stretch_places(torch.cat([torch.tensor([[-1.0, -2.0]]), ramp]))
    assert larger[0].tolist() == [-1, -2]
    inner = larger[1:].view(20, 20, 2)[3:17, 3:17]
    # bicubic weights don't keep a ramp exactly
    torch.testing.assert_close(
        inner.diff(dim=1)[..., 0], torch.full((14, 13), 0.7), atol=0.1, rtol=0
    )
    torch.testing.assert_close(
        inner.diff(dim=0)[..., 1], torch.full((13, 14), 0.7), atol=0.1, rtol=0
    )


@pytest.mark.parametrize("name", ["tower", "places", "language"])
def test_a_step_trains_what_its_stage_says(trainer: Trainer, batch: DetailBatch, name: str) -> None:
    stage = replace(next(s for s in STAGES if s.name == name), data=PLAN, replays=1)
    turn = next(trainer.turns(stage, iter([batch])))
    loss, scores = trainer.step(turn, stage)
    trainer.model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    moved = {n for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert {"vision_tower" in n for n in moved} == {stage.tower is not None}
    assert ("patch_beside" in scores) == (stage.tower is not None)
    assert ("patch_places" in scores) == (stage.places_weight > 0) == (name == "places")
    assert ("all" in scores) == (stage.lm is not None)


def test_replayed_pictures_get_each_question_once(trainer: Trainer, batch: DetailBatch) -> None:
    stage = replace(STAGES[-1], data=PLAN, replays=3)

    def twice() -> Iterator[DetailBatch]:
        yield from (batch, batch)

    slices = [turn.asked for turn in trainer.turns(stage, twice())]
    assert sorted((s.start, s.stop) for s in slices) == sorted(2 * [(0, 2), (2, 4), (4, 6)])


def test_batches_are_the_same_for_any_number_of_workers() -> None:
    def draw(rng: np.random.Generator) -> Arrays:
        return {"words": rng.integers(0, 100, size=4)}

    found = []
    for workers in (1, 2):
        with drawn(draw, (0, 21, 0), range(3), workers) as stream:
            found.append([arrays["words"].tolist() for arrays in stream])
    assert found[0] == found[1]
    assert len({str(words) for words in found[0]}) == 3


def test_a_scaled_recipe_keeps_its_stages_and_stops() -> None:
    short = [scaled(stage, 0.01) for stage in STAGES]
    assert [stage.name for stage in short] == [stage.name for stage in STAGES]
    assert all(2 <= stage.taken <= stage.steps for stage in short)
    assert len({stage.name for stage in STAGES}) == len(STAGES)
