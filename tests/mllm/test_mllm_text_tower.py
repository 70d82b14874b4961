"""Signals of a text tower that the plan names, against the dual encoder called by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import tokenprune
from tests import models, text_towers
from tests.mllm.calls import IMG, LONG, SHORT, TEXT, greedy, inputs, logits, model
from tests.mllm.plans import plan, tome
from tests.plugin import registering
from tokenprune import Budget, PruningStrategy, Reduction, StrategyParams, Tokens
from tokenprune.errors import (
    CheckpointError,
    DataError,
    PlanError,
    SignalError,
    UnsupportedCallError,
    UnsupportedModelError,
)
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.text_tower import TowerChoice
from tokenprune.plugins.host import register_plugin

ASKED = (Signal.TOWER_TOKENS, Signal.TOWER_QUESTION, Signal.TOWER_PIECES)
SLOW = {"atol": 2e-5, "rtol": 1e-4}
MANY = [1, IMG, *range(20, 56)]  # 36 words in a tower of 16: three pieces with the outer tokens


class LookParams(StrategyParams):
    text_tower: str | None = None
    tokenizer: str | None = None


class Look(PruningStrategy[LookParams]):
    """Keeps the tokens that are most like the question."""

    name = "t-tower"
    Params = LookParams
    stages = (PreLlm(projected=True),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return ASKED

    def text_tower(self) -> TowerChoice | None:
        name = self.params.text_tower
        return None if name is None else TowerChoice(name, self.params.tokenizer)

    def reduce(self, tokens: Tokens, budget: Budget) -> Reduction:
        self.seen.append(tokens)
        score = (tokens.signal(ASKED[0]) * tokens.signal(ASKED[1])[:, None]).sum(-1)
        index = score.topk(budget.keep).indices.sort(dim=1).values
        return Reduction.keep(index, tokens.count, score=score)


class LookBefore(Look):
    name = "t-tower-before"
    stages = (PreLlm(),)


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    Look.seen.clear()
    with register_plugin(registering(Look, LookBefore), "tower-tests"):
        yield


def look(keep: Any = 6, strategy: str = "t-tower", **params: Any) -> dict[str, Any]:
    given = {**text_towers.named(), **params}
    return {"at": "pre_llm", "strategy": strategy, "keep": keep, "params": given}


@cache
def dual() -> Any:
    return models.clip()


def embedded(ids: list[int]) -> Tensor:
    """The plain dual encoder's embedding of token ids, alone and unpadded, `[E]`."""
    with torch.no_grad():
        found: Tensor = dual().get_text_features(input_ids=torch.tensor([ids])).pooler_output
    return found[0]


def question(*places: list[int]) -> Tensor:
    whole = [[text_towers.FIRST, *ids, text_towers.LAST] for ids in places]
    return torch.stack([embedded(ids) for ids in whole])


def signals(of: Any, call: dict[str, Tensor], stage: Any = None, **rest: Any) -> dict[str, Tensor]:
    with tokenprune.attach(of, plan(stage or look(), **rest)):
        logits(of, call)
    return dict(Look.seen[-1].signals)


@pytest.mark.parametrize("strategy", ["t-tower", "t-tower-before"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_image_gets_its_samples_question(side: str, strategy: str) -> None:
    found = signals(model(), inputs(SHORT, TEXT, LONG, side=side), look(strategy=strategy))
    want = question(SHORT[3:], LONG[5:], LONG[5:])  # LONG has two images
    torch.testing.assert_close(found["tower_question"], want, **SLOW)
    torch.testing.assert_close(found["tower_pieces"][:, 0], normalize(want, dim=-1), **SLOW)


def test_tokens_are_the_features_through_the_towers_own_vision_end() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with torch.no_grad():
        seen = of.model.vision_tower(call["pixel_values"], output_hidden_states=True)
        features = seen.hidden_states[-2][:, 1:]
        want = dual().visual_projection(dual().vision_model.post_layernorm(features))
    torch.testing.assert_close(signals(of, call)["tower_tokens"], want, **SLOW)


def test_long_questions_are_cut_or_read_in_pieces() -> None:
    found = signals(model(), inputs(SHORT, MANY))
    ids = [text_towers.FIRST, *MANY[2:], text_towers.LAST]
    cut = [*ids[: text_towers.LENGTH - 1], text_towers.LAST]
    torch.testing.assert_close(found["tower_question"][1], embedded(cut), **SLOW)
    pieces = [ids[start : start + text_towers.LENGTH] for start in range(0, len(ids), 16)]
    want = torch.stack([normalize(embedded(piece), dim=-1) for piece in pieces])
    torch.testing.assert_close(found["tower_pieces"][1], want, **SLOW)
    assert not found["tower_pieces"][0, 1:].any(), "a short question is padded with zeros"


def test_a_video_has_one_question_and_tokens_follow_merges() -> None:
    of, film = model(), [1, IMG, IMG, IMG, 50, 51]
    with tokenprune.attach(of, plan(tome(20), look(4), images="frames")):
        logits(of, inputs(film))
    (tokens,) = Look.seen
    assert tokens.signals["tower_tokens"].shape == (1, 60, 16)
    torch.testing.assert_close(tokens.signals["tower_question"], question(film[4:]), **SLOW)


def test_a_batch_gives_what_its_samples_give_alone() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(look(4))):
        both = logits(of, call)
        one = {**inputs(SHORT), "pixel_values": call["pixel_values"][:1]}
        two = {**inputs(LONG), "pixel_values": call["pixel_values"][1:]}
        for row, alone in enumerate((one, two)):
            torch.testing.assert_close(both[row, -3:], logits(of, alone)[0, -3:])


def test_answers_are_no_question_and_generated_words_neither() -> None:
    of, call = model(), inputs(SHORT)
    labels = torch.full_like(call["input_ids"], -100)
    labels[:, -2:] = call["input_ids"][:, -2:]
    with tokenprune.attach(of, plan(look(4))):
        logits(of, call, labels=labels)
        torch.testing.assert_close(
            Look.seen[-1].signals["tower_question"], question(SHORT[3:-2]), **SLOW
        )
        cached = greedy(of, call)
        assert torch.equal(greedy(of, call, use_cache=False), cached)


def test_the_tokenizer_is_that_of_the_models_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    of, stage = model(), look(tokenizer=None)
    with pytest.raises(UnsupportedModelError, match="tokenizer") as caught:
        tokenprune.attach(of, plan(stage))
    assert "params" in (caught.value.remedy or "")
    monkeypatch.setattr(of, "name_or_path", text_towers.tokenizer())
    found = signals(of, inputs(SHORT), stage)
    torch.testing.assert_close(found["tower_question"], question(SHORT[3:]), **SLOW)


@pytest.mark.parametrize("name", ["trim", "cdpruner_clip"])
def test_a_plan_without_a_tower_is_told_what_to_write(name: str) -> None:
    stage = {"at": "pre_llm", "strategy": name, "keep": 6}
    with pytest.raises(PlanError, match=name) as caught:
        tokenprune.attach(model(), plan(stage))
    assert "text_tower" in (caught.value.where or "")
    assert "params: {text_tower:" in (caught.value.remedy or "")


def test_towers_that_cant_serve_are_refused(tmp_path: Path) -> None:
    of, empty = model(), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no model folder"):
        tokenprune.attach(of, plan(look(text_tower=str(empty))))
    with pytest.raises(CheckpointError, match=r"width 16, and this .* has 32"):
        tokenprune.attach(of, plan(look(text_tower=text_towers.narrow_clip())))
    models.siglip().save_pretrained(tmp_path / "siglip")
    with pytest.raises(UnsupportedModelError, match="no dual encoder") as caught:
        tokenprune.attach(of, plan(look(text_tower=str(tmp_path / "siglip"))))
    assert "clip" in (caught.value.remedy or "")
    with pytest.raises(PlanError, match="names no text tower"):
        tokenprune.attach(of, plan(look(text_tower=None)))
    with pytest.raises(SignalError, match=r"Families that can: llava \+ clip"):
        tokenprune.attach(model("siglip"), plan(look()))


def test_a_plan_has_one_tower() -> None:
    other = look(4, "t-tower", text_tower=text_towers.narrow_clip())
    with pytest.raises(PlanError, match="another text tower") as caught:
        tokenprune.attach(model(), plan(look(9, "t-tower-before"), other))
    assert "stages.1" in (caught.value.where or "")


def test_a_prompt_without_text_is_refused() -> None:
    of = model()
    with (
        tokenprune.attach(of, plan(look())),
        pytest.raises(UnsupportedCallError, match="no text"),
    ):
        logits(of, inputs([IMG]))
