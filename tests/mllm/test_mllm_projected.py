"""Stages that act on the projector's output see what the plain model projects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch

import tokenprune
from tests.mllm.calls import LONG, SHORT, greedy, inputs, logits, model
from tests.mllm.plans import KEPT, pick, plan
from tests.mllm.strategies import Fresh, Pick, Ragged, Spy
from tests.plugin import registering
from tokenprune import Tokens
from tokenprune.errors import PlanError
from tokenprune.interface.placement import PreLlm
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.plugins.host import register_plugin


class Behind(Pick):
    name = "t-behind"
    stages = (PreLlm(projected=True),)


class SpyBehind(Spy):
    name = "t-spy-behind"
    stages = (PreLlm(projected=True),)
    seen: ClassVar[list[Tokens]] = []

    def signals(self, site: Site) -> tuple[Signal, ...]:
        return (Signal.ATTENTION_RECEIVED,)


class RaggedBehind(Ragged):
    name = "t-ragged-behind"
    stages = (PreLlm(projected=True),)


class FreshBehind(Fresh):
    name = "t-fresh-behind"
    stages = (PreLlm(projected=True),)


PLUGIN = registering(Behind, SpyBehind, RaggedBehind, FreshBehind)


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    SpyBehind.seen.clear()
    with register_plugin(PLUGIN, "projected-tests"):
        yield


def stage(strategy: str, keep: Any) -> dict[str, Any]:
    return {"at": "pre_llm", "strategy": strategy, "keep": keep}


def behind(*index: int) -> dict[str, Any]:
    return {**pick(*index), "strategy": "t-behind"}


@pytest.mark.parametrize("kind", ["clip", "siglip", "clip-full"])
def test_it_sees_the_projectors_output_and_the_encoders_signals(kind: str) -> None:
    of = model(kind)
    pictures = inputs(SHORT, LONG)["pixel_values"]
    with torch.no_grad():
        want = torch.stack(list(of.model.get_image_features(pictures).pooler_output))
    prefix = want.shape[1] - 36
    call = inputs(SHORT, LONG)
    if prefix:  # one more placeholder for the class token of every picture
        row = [1, *[5] * (36 + prefix), 7]
        call = {"input_ids": torch.tensor([row]), "pixel_values": pictures[:1]}
    with tokenprune.attach(of, plan(stage("t-spy-behind", 36))):
        logits(of, call)
    (seen,) = SpyBehind.seen
    torch.testing.assert_close(seen.hidden, want[: len(seen.hidden), prefix:])
    assert seen.signals["attention_received"].shape == (len(seen.hidden), 36)
    assert seen.site == Site("pre_llm", seen.site.layers, seen.site.layers)


def test_keep_all_is_bit_exact() -> None:
    of, call = model(), inputs(SHORT, LONG)
    plain = logits(of, call)
    with tokenprune.attach(of, plan(stage("t-spy-behind", 1.0))):
        assert torch.equal(logits(of, call), plain)


def test_picking_behind_the_projector_is_picking_before_it() -> None:
    of, call = model(), inputs(SHORT, LONG)
    with tokenprune.attach(of, plan(pick(*KEPT))):
        before, said = logits(of, call), greedy(of, call)
    with tokenprune.attach(of, plan(behind(*KEPT))) as handle:
        torch.testing.assert_close(logits(of, call), before, atol=1e-5, rtol=1e-4)
        assert torch.equal(greedy(of, call), said)
        assert handle.meter.tokens["pre_llm"] == handle.meter.tokens["llm"] == len(KEPT)


def test_both_kinds_in_one_plan() -> None:
    of, call = model(), inputs(SHORT, LONG)
    two = plan(pick(*range(0, 36, 2)), behind(0, 3, 9))
    with tokenprune.attach(of, plan(pick(0, 6, 18))):
        want = logits(of, call)
    with tokenprune.attach(of, two) as handle:
        torch.testing.assert_close(logits(of, call), want, atol=1e-5, rtol=1e-4)
        assert [step.anchor.tolist() for step in handle.trace.images[0].steps][1] == [0, 6, 18]


def test_ragged_lengths_before_and_behind() -> None:
    of, call = model(), inputs(SHORT, LONG)
    stages = plan(stage("t-ragged", 1.0), stage("t-ragged-behind", 1.0))
    with tokenprune.attach(of, stages) as handle:
        together = logits(of, call)
        counts = [image.kept for image in handle.trace.images]
        alone = logits(of, {**inputs(SHORT), "pixel_values": call["pixel_values"][:1]})
    assert len(set(counts)) > 1
    torch.testing.assert_close(together[0, -3:], alone[0, -3:], atol=1e-5, rtol=1e-4)


def test_new_tokens_behind_the_projector_reach_the_llm() -> None:
    of, call = model(), inputs(SHORT)
    with tokenprune.attach(of, plan(stage("t-fresh-behind", 6))):
        pruned = logits(of, call)
    with torch.no_grad():
        features = torch.cat(list(of.model.get_image_features(call["pixel_values"]).pooler_output))
        embeds = of.get_input_embeddings()(call["input_ids"])[0]
        made = features.view(6, 6, -1).mean(1) + 1
        place = (call["input_ids"][0] == 5).nonzero()[:, 0]
        kept = torch.ones(len(embeds), dtype=torch.bool)
        kept[place] = False
        kept[place[::6]] = True
        embeds[place[::6]] = made
        out = of.model.language_model(
            inputs_embeds=embeds[kept][None],
            position_ids=kept.nonzero()[:, 0][None],
            attention_mask=torch.ones(1, int(kept.sum())),
        )
        want = of.lm_head(out.last_hidden_state)[0]
    torch.testing.assert_close(pruned[0, kept], want, atol=2e-5, rtol=1e-4)


def test_a_stage_on_the_projectors_input_cannot_follow() -> None:
    of = model()
    with pytest.raises(PlanError, match=r"t-pick.*t-behind") as caught:
        tokenprune.attach(of, plan(behind(0, 3), pick(0)))
    assert caught.value.where.startswith("stages.1")
    tokenprune.attach(of, plan(pick(0))).detach()
