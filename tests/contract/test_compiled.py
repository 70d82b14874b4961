"""A tower with a static plan is one graph under `torch.compile`, and gives the same."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from tokenprune_strategies.tome import ToMe

import tokenprune
from tests import models, towers
from tests.contract.cases import ENCODER_STAGES, ENCODERS, KEEP, MERGING, Encoder, attached
from tests.contract.compiling import assert_one, assert_same, one_graph, small_llava
from tests.mllm.calls import SHORT, inputs
from tokenprune.errors import NotMeasuredError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

WHOLE_TOWERS = ("clip", "siglip")
WRAPPED = {"timm-wrapped": Encoder(towers.timm_wrapped, ENCODERS["clip-vision"].inputs)}
FIRST = {"at": "encoder", "layer": 0, "keep": KEEP + 4}
"""What acts in the first block, and leaves so many."""


def plan(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"schema_version": 1, "stages": list(stages)}


MERGING_AND_DROPPING = plan(
    {**FIRST, "strategy": "tome"},
    {"at": "encoder", "strategy": "fopru", "layer": 1, "keep": KEEP},
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


def built(encoder: str, blocks: int = 2) -> Any:
    depth = "depth" if encoder.startswith("timm") else "num_hidden_layers"
    return (ENCODERS | WRAPPED)[encoder].build(**{depth: blocks})


def called(model: Any, encoder: str) -> Any:
    return model.get_image_features if encoder in WHOLE_TOWERS else model


def one_behind_the_other() -> dict[str, list[dict[str, Any]]]:
    """Every strategy in a plan: those that merge in one, those that drop in one, a block for each.

    One that says in which block it acts has a plan of its own.
    """
    found: dict[str, list[dict[str, Any]]] = {"merging": [], "dropping": []}
    for name, stage in ENCODER_STAGES.items():
        kind = name if "layer" in stage else "merging" if name in MERGING else "dropping"
        before = found.setdefault(kind, [])
        left = models.PATCHES - 3 * (1 + len(before))
        before.append({"at": "encoder", "layer": len(before), "keep": left, **stage})
    return found


@pytest.mark.parametrize("kind", one_behind_the_other())
@torch.no_grad()
def test_every_static_strategy_is_one_graph_and_gives_the_same(kind: str) -> None:
    stages = one_behind_the_other()[kind]
    model, pictures = built("clip-vision", stages[-1]["layer"] + 2), models.pixels(2)
    with tokenprune.attach(model, plan(*stages)):
        compiled, counter = one_graph(model)
        for given in (pictures, pictures.flip(-1)):  # traced, then from the cache
            assert_same(compiled(given), model(given))
    assert_one(counter)


OF_A_KIND = (
    "clip",
    "siglip",
    "siglip2-vision",
    "internvl",
    "idefics3",
    "dinov2-registers",
    "dinov3",
    "timm-registers",
    "timm-eva",
    "timm-wrapped",
)
"""Towers that run code of their own; the others are run by the same, or by less of it."""


@pytest.mark.parametrize("encoder", OF_A_KIND)
@torch.no_grad()
def test_every_tower_that_merges_and_drops_is_one_graph(encoder: str) -> None:
    model, given = built(encoder), (ENCODERS | WRAPPED)[encoder].inputs(2)
    with tokenprune.attach(model, MERGING_AND_DROPPING) as handle:
        call = called(model, encoder)
        plain = call(**given)
        assert [step.kept for step in handle.trace.image(0).steps] == [KEEP + 4, KEEP]
        compiled, counter = one_graph(call)
        assert_same(compiled(**given), plain)
    assert_one(counter)


@torch.no_grad()
def test_seven_batch_sizes_need_three_graphs() -> None:
    model = built("timm-average")
    second = {"at": "encoder", "strategy": "tome", "layer": 1, "keep": KEEP}
    with tokenprune.attach(model, plan({**FIRST, "strategy": "evoprune"}, second)):
        compiled, counter = one_graph(model, "aot_eager")
        for batch in (2, 4, 1, 3, 8, 2, 5):
            assert_same(compiled(models.pixels(batch)), model(models.pixels(batch)))
    assert counter.frame_count <= 3


@torch.no_grad()
def test_other_sizes_of_pictures_need_a_graph_each() -> None:
    """And their budgets are solved while it is traced."""
    model = built("clip-vision", 1)
    with attached(model, ENCODER_STAGES["tome"], keep=0.6):
        compiled, counter = one_graph(model)
        for rows, columns in ((6, 5), (7, 8), (6, 5)):
            pictures = torch.randn(2, 3, rows * models.PATCH, columns * models.PATCH)
            found = compiled(pictures, interpolate_pos_encoding=True)
            assert_same(found, model(pictures, interpolate_pos_encoding=True))
    assert counter.frame_count == 2


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@torch.no_grad()
def test_inductor_compiles_a_plan_to_one_graph() -> None:
    model, pictures = built("clip-vision", 1), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=20):
        assert_same(torch.compile(model, fullgraph=True)(pictures), model(pictures))


@torch.no_grad()
def test_a_compiled_call_is_not_measured_and_says_so() -> None:
    model, pictures = built("timm-vit", 1), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"], keep=20) as handle:
        model(pictures)
        handle.meter.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        compiled(pictures * float("nan"))  # and values aren't checked
        report = handle.report()
        assert report.compiled
        assert report.seconds == {}
        assert report.tokens == {}
        lines = str(report).splitlines()
        assert all("not measured" in line for line in lines[1:4])
        with pytest.raises(NotMeasuredError, match="one compiled graph"):
            _ = handle.trace
        model(pictures)
        assert len(handle.trace.images) == 2
        assert "1 with 2 images, and compiled ones: not measured" in str(handle.report())
        handle.meter.reset()
        assert "not measured" not in str(handle.report())


@torch.no_grad()
def test_a_call_that_a_cuda_graph_records_reads_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    model, pictures = built("clip-vision"), models.pixels(2)
    with attached(model, ENCODER_STAGES["tome"]) as handle:
        plain = model(pictures)
        handle.meter.reset()
        monkeypatch.setattr("tokenprune.engine.call.capturing", lambda: True)
        assert_same(model(pictures), plain)
        model(pictures * float("nan"))  # values aren't checked
        assert handle.report().compiled
        assert handle.report().seconds == {}
        with pytest.raises(NotMeasuredError, match="one compiled graph"):
            _ = handle.trace


@torch.no_grad()
def test_a_strategy_that_breaks_the_graph_runs_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce = ToMe.reduce

    def peeking(self: ToMe, tokens: Tokens, budget: Budget) -> Reduction:
        assert float(tokens.size.sum()) > 0  # no graph can hold this
        return reduce(self, tokens, budget)

    monkeypatch.setattr(ToMe, "reduce", peeking)
    model, pictures = built("clip-vision", 1), models.pixels(2)
    with tokenprune.attach(model, plan({**FIRST, "strategy": "tome"})) as handle:
        plain = model(pictures)
        compiled = torch.compile(model, backend="eager")
        for _ in range(2):
            assert_same(compiled(pictures), plain)
        assert not handle.report().compiled
        assert len(handle.trace.images) == 2


@torch.no_grad()
def test_a_compiled_tower_inside_a_multimodal_llm_keeps_to_the_llms_call() -> None:
    model, given = small_llava(), inputs(SHORT)
    behind = {"at": "pre_llm", "strategy": "fopru", "keep": 9}
    with tokenprune.attach(model, plan({**FIRST, "strategy": "evoprune"}, behind)) as handle:
        plain, tokens = model(**given).logits, handle.report().tokens
        model.model.vision_tower.compile(backend="eager")
        model.model.vision_tower(given["pixel_values"])  # by itself one graph
        assert handle.report().compiled
        torch.testing.assert_close(model(**given).logits, plain)
        assert handle.report().tokens == tokens
        assert len(handle.trace.images) == 1


@torch.no_grad()
def test_a_compiled_tower_takes_a_plan_of_another_seed() -> None:
    """A compiler takes a number that changed for a symbol, and nothing is drawn from one."""
    model, pictures = built("clip-vision", 1), models.pixels()
    compiled, kept = torch.compile(model, backend="eager"), list[torch.Tensor]()
    for seed in (1, 2, 3):
        with attached(model, {"strategy": "random", "layer": 0}, seed=seed):
            kept.append(model(pictures).last_hidden_state)
            assert torch.equal(compiled(pictures).last_hidden_state, kept[-1])
    assert not torch.equal(kept[0], kept[1])


@torch.no_grad()
def test_values_that_a_graph_cannot_refuse_give_nan() -> None:
    model = built("idefics3", 1)
    with attached(model, ENCODER_STAGES["tome"], keep=20):
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert compiled(**towers.idefics3_inputs())[0].isfinite().all()
        assert compiled(**towers.idefics3_inputs(hidden=1))[0].isnan().all()
