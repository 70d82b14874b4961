"""Which rows a comparison has without plans of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import PruningStrategy, StrategyParams
from tokenprune.interface.trainable import TrainableStrategy
from tokenprune.lab.compare.defaults import (
    SECOND_KEEP,
    VIDEO_VARIANTS,
    Wanted,
    default_entries,
    encoder_entries,
    random_beside,
)
from tokenprune.lab.measure.entries import Entry, Strategies
from tokenprune.plan import Average
from tokenprune.plugins.host import host


class Base(PruningStrategy[StrategyParams]):
    name = "base"
    stages = (PreLlm(),)

    def reduce(self, tokens: Any, budget: Any) -> Reduction:
        return Reduction.none()


def kind(name: str, **changes: Any) -> type[Base]:
    return type(name, (Base,), {"name": name, **changes})


def named(*kinds: type[PruningStrategy[Any]]) -> Strategies:
    return {one.name: one for one in kinds}


def rows(entries: list[Entry]) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.keep, entry.peers) for entry in entries]


KNEE = kind("knee", length="own")
PLAIN = kind("plain")
RANDOM = host().strategies["random"]


def test_every_strategy_stands_at_every_budget_and_adaptive_ones_once() -> None:
    found = default_entries(named(PLAIN, KNEE), Wanted(keeps=(9, 4), positions="original"))
    assert rows(found) == [
        ("plain", "9", "9"),
        ("plain", "4", "4"),
        ("knee", "own", "own, knee"),
    ]
    assert found[-1].plan.stages[0].keep is None
    assert "the method chooses" in found[-1].meaning


def test_a_strategy_of_every_layer_names_none() -> None:
    found = default_entries(
        named(kind("gates", stages=(Decoder(every_layer=True),))), Wanted(keeps=(9,))
    )
    assert found[0].plan.stages[0].layer is None


def test_coupled_stages_share_their_first_budget_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SECOND_KEEP, "both", 0.4)
    both = kind("both", stages=(PreLlm(), Decoder(layer=lambda layers: layers // 2)))
    found = default_entries(named(both), Wanted(keeps=(9,), layers=6, positions="original"))
    assert rows(found) == [("both", "9", "9"), ("both 2-stage", "avg 9 + 0.4", "9")]
    first, second = found[1].plan.stages
    assert (first.keep, second.keep, second.layer) == (Average(average=9), 0.4, 3)
    alone = default_entries(named(both), Wanted(keeps=(9,), positions="original"))
    assert len(alone) == 1, "without an LLM there is no second stage"


def test_own_budgets_of_two_stages_stand_beside_those_of_one() -> None:
    both = kind("knee", stages=(PreLlm(), Decoder(layer=2)), length="own")
    found = default_entries(named(both), Wanted(keeps=(9, 4), layers=6))
    assert rows(found) == [
        ("knee", "own", "own, knee"),
        ("knee 2-stage", "own + own", "own, knee 2-stage"),
    ]
    assert [stage.at for stage in found[1].plan.stages] == ["pre_llm", "decoder"]


def test_a_row_names_the_layer_that_the_strategy_takes_in_this_llm() -> None:
    late = kind("late", stages=(Decoder(layer=lambda layers: layers // 2),))
    (found,) = default_entries(named(late), Wanted(keeps=(9,), layers=6))
    assert found.plan.stages[0].layer == 3
    assert "LLM layer 3" in found.meaning


def test_variants_stand_beside_on_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VIDEO_VARIANTS, "merging", {"wide": {"wide": True}})
    merging = kind("merging", stages=(Encoder(),))
    found = default_entries(named(merging, PLAIN), Wanted(keeps=(9,), video=True))
    beside = {e.name: e.plan.stages[0].params for e in found if e.group == "plans"}
    assert beside == {"merging": {}, "merging wide": {"wide": True}, "plain": {}}
    pictures = default_entries(named(merging), Wanted(keeps=(9,)))
    assert "merging wide" not in {entry.name for entry in pictures}


def test_one_method_of_every_place_stands_again_with_compacted_positions() -> None:
    kinds = named(
        PLAIN,
        KNEE,
        RANDOM,
        kind("later"),
        *(kind(at.at, stages=(at,)) for at in (Encoder(), Decoder())),
    )
    found = default_entries(kinds, Wanted(keeps=(9, 4, 2)))
    compact = {(e.name, e.keep) for e in found if e.plan.positions == "compact"}
    assert compact == {("encoder", "4"), ("later", "4"), ("random", "4")}


def checkpoint(folder: Path, name: str, facts: Mapping[str, str]) -> Path:
    path = folder / f"{name}.safetensors"
    save_file({"weight": torch.zeros(1)}, path, dict(facts))
    return path


@pytest.fixture
def learned(tmp_path: Path) -> type[Base]:
    files = {
        "small": checkpoint(tmp_path, "small", {"model": "reference", "keep": "9"}),
        "free": checkpoint(tmp_path, "free", {"model": "reference"}),
        "clips": checkpoint(tmp_path, "clips", {"model": "video", "keep": "4"}),
    }

    class Learned(Base, TrainableStrategy[StrategyParams]):
        name = "learned"

        @classmethod
        def shipped(cls) -> Mapping[str, Path]:
            return files

    return Learned


def test_shipped_checkpoints_stand_where_they_were_trained(learned: type[Base]) -> None:
    wanted = Wanted(keeps=(16, 9), trained_for="reference", positions="original")
    found = default_entries(named(PLAIN, learned), wanted)
    assert rows(found) == [
        ("plain", "16", "16"),
        ("plain", "9", "9"),
        ("learned", "9", "9"),
        ("learned", "own", "own, learned"),
    ]
    assert found[2].plan.stages[0].params == {"checkpoint": "bundled:small"}
    clips = default_entries(named(learned), Wanted(keeps=(9,), trained_for="video", video=True))
    assert rows(clips) == [("learned", "4", "4")]
    assert default_entries(named(learned), Wanted(keeps=(9,))) == []


def test_random_beside_a_row_hands_over_as_many_tokens() -> None:
    (knee,) = default_entries(named(KNEE), Wanted(keeps=(9,), video=True, positions="compact"))
    knee = replace(knee, plan=knee.plan.model_copy(update={"images": "frames"}))
    beside = random_beside(named(RANDOM), knee, 11.6, 36)
    assert (beside.name, beside.keep, beside.peers) == ("random", "12", "own, knee")
    assert beside.plan.images == "frames"
    assert beside.plan.positions == "compact"
    assert random_beside(named(RANDOM), knee, 0.2, 36).keep == "1"
    assert random_beside(named(RANDOM), knee, 99, 36).keep == "36"


def test_inside_an_encoder_lengths_are_fixed() -> None:
    stages = (Encoder(),)
    kinds = named(kind("fixed", stages=stages), kind("ragged", stages=stages, length="data"))
    assert [entry.name for entry in encoder_entries(kinds, (9, 4))] == ["fixed", "fixed"]
