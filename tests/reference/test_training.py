from __future__ import annotations

import numpy as np
import pytest
import torch

from tokenprune.reference import TYPES, Textures
from training.reference_model import choose
from training.reference_model.data import (
    ASKING,
    IGNORE,
    Batch,
    DataPlan,
    make_arrays,
    normalise,
)
from training.reference_model.forward import (
    answer_questions,
    logits,
    patchify,
    project,
    tower_forward,
)
from training.reference_model.model import PATCHES, build_model
from training.reference_model.optimiser import orthogonalise, schedule
from training.reference_model.vocab import BOS, IMAGE, WORDS


@pytest.fixture(scope="module")
def batch() -> Batch:
    plan = DataPlan(batch=3, questions=5, weights=(1.0,) * len(TYPES))
    arrays = make_arrays(plan, np.random.default_rng(1), Textures(1, count=3))
    return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


@torch.no_grad()
def test_forwards_equal_those_of_transformers(batch: Batch) -> None:
    model = build_model(0).eval()
    w = dict(model.named_parameters())
    pixels = normalise(batch.images)
    theirs = model.model.vision_tower(pixels, output_hidden_states=True)
    seen = tower_forward(w, patchify(pixels), choose.everything(len(pixels), PATCHES))
    torch.testing.assert_close(seen.patches, theirs.hidden_states[-2][:, 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(seen.pooled, theirs.pooler_output, rtol=0, atol=1e-4)

    start = torch.full((len(pixels),), 1 + PATCHES)
    hidden = answer_questions(w, project(w, seen.patches), 1 + seen.index, batch.words, start)
    ours = logits(w, hidden)
    for number in range(batch.words.shape[1]):
        prefix = torch.tensor([[BOS] + [IMAGE] * PATCHES]).expand(len(pixels), -1)
        ids = torch.cat([prefix, batch.words[:, number]], 1)
        wanted = model(input_ids=ids, pixel_values=pixels).logits[:, 1 + PATCHES :]
        torch.testing.assert_close(ours[:, number], wanted, rtol=0, atol=1e-4)


@torch.no_grad()
def test_a_subset_without_loss_is_the_whole(batch: Batch) -> None:
    w = dict(build_model(0).named_parameters())
    pixels = patchify(normalise(batch.images))
    index = choose.everything(len(pixels), PATCHES)
    plain = tower_forward(w, pixels, index)
    for merge in (False, True):
        mapped = tower_forward(w, pixels, index, {4: choose.Thin(index, merge)})
        torch.testing.assert_close(mapped.patches, plain.patches)


def test_labels_agree_with_each_other(batch: Batch) -> None:
    owned = batch.owner >= 0
    assert torch.equal(owned, owned & batch.touched)
    assert (batch.kind[owned] < 18).all()
    assert (batch.kind[~batch.touched] == 18).all()
    assert (batch.colour[batch.touched & ~owned] == IGNORE).all()
    answers = batch.words.gather(2, batch.answer_at.unsqueeze(-1) + 1).squeeze(-1)
    assert torch.equal(answers, batch.answer)


def test_informed_choice_keeps_every_item(batch: Batch) -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (8, 30, 100):
        keep = choose.informed(batch.owner, count, generator)
        assert keep.shape == (3, count)
        assert (keep.diff(dim=1) > 0).all()
        for row in range(3):
            owners = set(batch.owner[row].tolist())
            assert owners - {-1} <= set(batch.owner[row, keep[row]].tolist())


def test_averaging_keeps_the_mean_of_each_group() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 5.0]]])
    thin = choose.average_into(tokens, torch.tensor([[0, 1]]))
    torch.testing.assert_close(thin, torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]))


def test_swapping_moves_background_only() -> None:
    tokens = torch.arange(3.0)[:, None, None].expand(3, 4, 2)
    ground = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    swapped = choose.swap_background(tokens, ground)[..., 0]
    assert swapped.tolist() == [[2, 2, 0, 0], [0, 1, 1, 1], [1, 0, 2, 2]]


def test_orthogonalise_flattens_the_spectrum() -> None:
    matrices = torch.randn(3, 16, 48, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_schedule_warms_up_and_cools_down() -> None:
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] < rates[3] == max(rates) == 1.0
    assert rates[-1] < 0.05


def test_question_encoding_ends_with_the_answer() -> None:
    ids, at = ASKING.encode("which digit is shown ?", "7")
    assert WORDS[ids[at]] == "?"
    assert WORDS[ids[at + 1]] == "7"
