"""The merging of PruneVid, before the LLM, against loops."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies.prunevid import PruneVid
from tokenprune_strategies.prunevid.merging import fitted
from tokenprune_strategies.prunevid.segments import contiguous
from tokenprune_strategies.prunevid.strategy import SEGMENT
from torch import Tensor

from tests.strategies import prunevid_oracle as oracle
from tests.strategies.cases import SITES, axis_vectors, make_tokens
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens


def film(frames: int, height: int, width: int, seed: int, dim: int = 6) -> Tensor:
    """Two scenes of a still background with noise, a part of which moves, `[1, T * N, D]`."""
    torch.manual_seed(seed)
    count = height * width
    scenes = 2 * torch.randn(2, 1, count, dim)
    cut = max(1, frames // 2)
    shot = torch.cat((scenes[0].expand(cut, -1, -1), scenes[1].expand(frames - cut, -1, -1)))
    shot = shot + 0.2 * torch.randn(shot.shape)
    moving = torch.rand(count) < 0.4
    shot[:, moving] = torch.randn(frames, int(moving.sum()), dim)
    return shot.reshape(1, frames * count, dim)


def clip(hidden: Tensor, grid: tuple[int, int, int], index: Tensor | None = None) -> Tokens:
    return make_tokens(hidden, site=SITES["pre_llm"], grid=grid, index=index)


def merge(tokens: Tokens, keep: int | None = None, **params: Any) -> Reduction:
    budget = Budget(tokens.count, tokens.count if keep is None else keep, keep is not None)
    return PruneVid.from_params(**params).reduce(tokens, budget).row(0)


def as_places(tokens: Tokens) -> dict[oracle.Place, list[float]]:
    size = tokens.grid[1] * tokens.grid[2]
    rows = zip(tokens.index[0].tolist(), tokens.hidden[0].double().tolist(), strict=True)
    return {divmod(patch, size): row for patch, row in rows}


def check_against_loops(tokens: Tokens, **params: Any) -> None:
    answer = merge(tokens, **params)
    assert answer.anchor is not None
    assert answer.slot is not None
    size = tokens.grid[1] * tokens.grid[2]
    place = [divmod(patch, size) for patch in tokens.index[0].tolist()]
    wanted = oracle.stage_a(as_places(tokens), **params)
    anchors = [place[token] for token in answer.anchor[0].tolist()]
    assert anchors == sorted(wanted)
    made = answer.apply(tokens.hidden, tokens.size)[0]
    notes = answer.riders[SEGMENT][0]
    for slot, anchor in enumerate(anchors):
        feature, members, static, first = wanted[anchor]
        mine = (answer.slot[0] == slot).nonzero()[:, 0].tolist()
        assert {place[token] for token in mine} == members
        seen = Counter(location for _, location in members)
        if len(set(seen.values())) == 1:  # else means over locations aren't means over tokens
            torch.testing.assert_close(made[slot], torch.tensor(feature), rtol=1e-4, atol=1e-5)
        note = notes[answer.anchor[0, slot]].tolist()
        assert note == ([1, anchor[0] - first] if static else [0, 0])


@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([0, 3, 14]),
    st.sampled_from(["rms", "raw"]),
)
@settings(deadline=None, max_examples=15)
def test_merging_against_loops(seed: int, frames: int, untouched: int, scale: str) -> None:
    tokens = clip(film(frames, 3, 6, seed), (frames, 3, 6))
    check_against_loops(tokens, untouched=untouched, scale=scale)


def test_the_scale_of_features_matters_only_if_taken_as_it_comes() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1, 20, 4)
    hidden[0, 3], hidden[0, 15] = 4.0, -4.0  # these stand out
    anchors: dict[str, list[list[int]]] = {"rms": [], "raw": []}
    for scale, found in anchors.items():
        for factor in (0.25, 1.0, 16.0):
            answer = merge(clip(factor * hidden, (1, 4, 5)), scale=scale)
            assert answer.anchor is not None
            found.append(answer.anchor[0].tolist())
    assert anchors["rms"][0] == anchors["rms"][1] == anchors["rms"][2]
    assert {3, 15} <= set(anchors["raw"][0]), "where densities are alike, distance decides"
    assert not {3, 15} & set(anchors["raw"][2]), "their densities vanish"


@given(st.integers(0, 10**6), st.integers(2, 10), st.integers(-5, 9), st.integers(2, 10))
@settings(deadline=None, max_examples=15)
def test_merging_against_loops_for_other_parameters(
    seed: int, gamma: int, tau: int, beta: int
) -> None:
    tokens = clip(film(6, 2, 5, seed), (6, 2, 5))
    tenths = {"gamma": gamma / 10, "tau": tau / 10, "beta": beta / 10}
    check_against_loops(tokens, untouched=4, neighbours=3, **tenths)


@pytest.mark.parametrize("seed", range(5))
def test_merging_where_an_earlier_stage_took_tokens_out(seed: int) -> None:
    whole = film(6, 3, 5, seed)
    left = torch.randperm(90)[:50].sort().values[None]
    check_against_loops(clip(whole[:, left[0]], (6, 3, 5), left), untouched=4)


def test_still_locations_become_the_first_frame_of_their_segment() -> None:
    frame = torch.randn(4, 3)
    tokens = clip(frame.repeat(8, 1)[None], (8, 2, 2))
    answer = merge(tokens)
    assert answer.anchor is not None
    assert answer.slot is not None
    assert answer.anchor.tolist() == [[0, 1, 2, 3]]
    assert answer.slot.tolist() == [[0, 1, 2, 3] * 8]
    torch.testing.assert_close(answer.apply(tokens.hidden, tokens.size)[0], frame)
    assert answer.sizes(tokens.size).tolist() == [[8.0] * 4]


def test_segments_of_one_frame_are_dynamic() -> None:
    torch.manual_seed(0)
    tokens = clip(torch.randn(1, 4, 3).repeat(1, 2, 1), (2, 2, 2))
    kept_apart = clip(tokens.hidden[:, :4], (1, 2, 2))
    answer = merge(kept_apart)
    assert answer.length == 4
    assert torch.isfinite(answer.apply(kept_apart.hidden, kept_apart.size)).all()
    assert not answer.riders[SEGMENT].any()


def test_short_clips_have_one_segment() -> None:
    for frames in (1, 2, 3):
        tokens = clip(torch.randn(1, 1, 3).repeat(1, frames, 1), (frames, 1, 1))
        assert merge(tokens).length == 1


def test_an_image_is_clustered_in_space_alone() -> None:
    torch.manual_seed(3)
    tokens = clip(torch.randn(1, 20, 4), (1, 4, 5))
    answer = merge(tokens)
    assert answer.slot is not None
    assert answer.length == 10
    power = tokens.hidden.square().mean().sqrt()
    centres, labels = oracle.peaks((tokens.hidden[0] / power).double().tolist(), 10, 7)
    assert answer.anchor is not None
    assert answer.anchor[0].tolist() == centres
    assert answer.slot[0].tolist() == [centres.index(label) for label in labels]
    assert merge(clip(tokens.hidden[:, :14], (1, 2, 7))).length == 14, "small groups stay"


@pytest.mark.parametrize("seed", range(4))
def test_ties_duplicates_and_zeros_repeat_and_conserve(seed: int) -> None:
    hidden = axis_vectors(40, 4, seed)[None]
    tokens = replace(clip(hidden, (2, 4, 5)), size=torch.randint(1, 4, (1, 40)).float())
    answer, again = merge(tokens, untouched=3), merge(tokens, untouched=3)
    assert answer.slot is not None
    assert again.slot is not None
    assert torch.equal(answer.slot, again.slot)
    made, sizes = answer.apply(tokens.hidden, tokens.size), answer.sizes(tokens.size)
    assert torch.isfinite(made).all()
    assert float(sizes.sum()) == float(tokens.size.sum())
    before = (tokens.hidden * tokens.size[..., None]).sum(1)
    torch.testing.assert_close((made * sizes[..., None]).sum(1), before, rtol=1e-4, atol=1e-4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14))
@settings(deadline=None, max_examples=200)
def test_contiguous_against_loops(labels: list[int]) -> None:
    assert contiguous(labels) == oracle.contiguous(labels)


def test_contiguous_by_hand() -> None:
    assert contiguous([0, 0, 0, 1, 0, 2, 2]) == [0, 0, 0, 0, 0, 2, 2]
    assert contiguous([1, 1, 0, 2, 2]) == [1, 1, 1, 2, 2], "a tie goes to the left"
    assert contiguous([0, 1, 1]) == [1, 1, 1]
    assert contiguous([0, 1, 2]) == [0, 0, 0]
    assert contiguous([1, 1, 2, 1, 1]) == [1, 1, 1, 1, 1], "both of the longest stay"


@given(st.integers(0, 10**6), st.integers(1, 48), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_a_budget_is_a_ceiling_that_loses_no_patch(seed: int, keep: int, frames: int) -> None:
    tokens = clip(film(frames, 2, 4, seed), (frames, 2, 4))
    natural = merge(tokens).length
    answer = merge(tokens, min(keep, tokens.count))
    assert answer.length == min(keep, natural)
    assert float(answer.sizes(tokens.size).sum()) == tokens.count


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 100))
@settings(deadline=None, max_examples=100)
def test_budgets_are_shared_in_proportion(counts: list[int], more: int) -> None:
    most = len(counts) + more
    answer = fitted(counts, most)
    assert sum(answer) == min(most, sum(counts))
    assert all(1 <= given_ <= asked for given_, asked in zip(answer, counts, strict=True))
    if sum(counts) > most:
        share = more / (sum(counts) - len(counts))
        for given_, asked in zip(answer, counts, strict=True):
            assert abs(given_ - 1 - (asked - 1) * share) < 1


def test_a_batch_is_its_samples() -> None:
    rows = [film(4, 3, 6, seed) for seed in (1, 2, 3)]
    answer = PruneVid.from_params().reduce(clip(torch.cat(rows), (4, 3, 6)), Budget(72, 72, False))
    lengths = set()
    for number, row in enumerate(rows):
        alone, here = merge(clip(row, (4, 3, 6))), answer.row(number)
        lengths.add(alone.length)
        assert alone.slot is not None
        assert here.slot is not None
        assert torch.equal(alone.slot, here.slot)
    assert len(lengths) > 1
