"""Training beside other stages inside the LLM: which layers are its own, and what is seen there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenprune_strategies.covipal import training as covipal
from tokenprune_strategies.dyvte import training as dyvte

from tests.train.test_train_losses import batch, session
from tests.train.tiny import ByHeart, plan, tiny
from tokenprune.errors import LayerError, PlanError
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import TrainingStep
from tokenprune.lab.train import TrainSettings, train
from tokenprune.plan import Plan, load_plan

TEXT = (Signal.TEXT_STATES, Signal.TEXT_PLACE)
FASTV = {"at": "decoder", "strategy": "fastv", "layer": 1, "keep": 6}
NEVER = {"at": "decoder", "strategy": "dyvte", "params": {"threshold": 1.0}}


def stages(*given: dict[str, Any]) -> Plan:
    return load_plan({"stages": list(given)})


def step(number: int = 0) -> TrainingStep:
    return TrainingStep(number, "answers", 0.0, torch.Generator().manual_seed(number))


@pytest.mark.parametrize(
    ("given", "number", "layers"),
    [
        ([NEVER], 0, range(1, 4)),
        ([FASTV, NEVER], 1, range(2, 4)),
        ([NEVER, {**FASTV, "layer": 3}], 0, range(1, 3)),
        ([FASTV, {**NEVER, "layers": [2, 2]}, {**FASTV, "layer": 3, "keep": 3}], 1, range(2, 3)),
    ],
)
def test_gates_are_drawn_from_the_layers_that_are_left_to_them(
    given: list[dict[str, Any]], number: int, layers: range
) -> None:
    loaded = tiny()
    made, questions = session(loaded, stages(*given), number), batch(loaded)
    learner: Any = made._stages[number].strategy
    assert made.layers == layers
    assert {dyvte.drawn(made.layers, 3, step(n)) for n in range(40)} == set(layers)
    found = learner.loss(made, questions, step())
    found.loss.backward()
    gates = enumerate(learner.modules().gates)
    trained = [n for n, gate in gates if any(p.grad is not None for p in gate.parameters())]
    assert trained == [dyvte.drawn(layers, 3, step()) - 1]


def test_a_plan_that_asks_no_gate_is_refused() -> None:
    with pytest.raises(PlanError, match="no gate is asked at layers 0 to 0"):
        dyvte.drawn(range(1), 3, step())
    with pytest.raises(LayerError, match="don't overlap"):
        session(tiny(), stages(NEVER, FASTV))


def test_a_run_beside_fastv(tmp_path: Path) -> None:
    settings = TrainSettings(steps=6, batch_size=4, shared=2)
    wanted = stages(FASTV, {"at": "decoder", "strategy": "dyvte"})
    done = train(tiny(), "dyvte", wanted, tmp_path, ByHeart(True), settings)
    assert load_plan(done.plan).stages[0].strategy == "fastv"


@torch.no_grad()
def test_a_gate_learns_from_what_it_is_shown_at_inference() -> None:
    loaded = tiny()
    made, questions = session(loaded, stages(FASTV, NEVER), 1), batch(loaded)
    learner: Any = made._stages[1].strategy
    shown: dict[int, Tokens] = {}
    reduce = learner.reduce

    def note(tokens: Tokens, budget: Budget) -> Reduction:
        shown[tokens.site.layer] = tokens
        answer: Reduction = reduce(tokens, budget)
        return answer

    learner.reduce = note
    made.pruned(questions)
    learner.reduce = reduce
    assert sorted(shown) == list(made.layers)
    for layer, wanted in shown.items():
        seen = made.dense(questions, {layer: TEXT})[1][layer]
        assert seen.count == wanted.count == 6
        torch.testing.assert_close(seen.hidden, wanted.hidden)
        for signal in TEXT:
            torch.testing.assert_close(seen.signal(signal), wanted.signal(signal))


@torch.no_grad()
def test_a_tap_reads_before_the_stage_at_its_layer_acts() -> None:
    loaded = tiny()
    questions = batch(loaded)
    both = session(loaded, stages({**NEVER, "layers": [1, 1]}, {**FASTV, "layer": 2}))
    logits, seen = both.dense(questions, {2: TEXT, 3: (Signal.LAST_QUERY_ATTENTION,)})
    torch.testing.assert_close(logits, both.dense(questions)[0])
    free = session(loaded, plan("covipal_style")).dense(questions, {2: TEXT})[1][2]
    assert seen[2].count == free.count == 36
    torch.testing.assert_close(seen[2].hidden, free.hidden)
    torch.testing.assert_close(seen[2].signal(TEXT[0]), free.signal(TEXT[0]))
    assert seen[3].count == 6
    # its strategy is left as it was
    assert both.dense(questions)[1] == {}
    assert both._stages[1].strategy.signals(seen[2].site) != (*TEXT,)


@torch.no_grad()
@pytest.mark.parametrize("queries", ["text", "all"])
def test_the_guide_of_covipal_is_the_attention_of_either_reading(queries: str) -> None:
    loaded = tiny()
    made, questions = session(loaded, plan("covipal_style", queries=queries)), batch(loaded)
    learner: Any = made._stages[0].strategy
    guided = TrainingStep(0, covipal.GUIDANCE.name, 0.0, torch.Generator())
    found = learner.loss(made, questions, guided)
    read = {"text": Signal.QUESTION_ATTENTION_MEAN, "all": Signal.PROMPT_ATTENTION_MEAN}
    site = covipal.guidance_site(4)
    seen = made.dense(questions, {0: TEXT, site: tuple(read.values())})[1]
    losses = {
        name: covipal.guidance_loss(learner.score(seen[0]), seen[site].signal(signal)).loss
        for name, signal in read.items()
    }
    torch.testing.assert_close(found.loss, losses[queries])
    assert not torch.isclose(losses["text"], losses["all"])


def test_a_guide_that_sees_fewer_tokens_than_are_scored_is_refused() -> None:
    loaded = tiny()
    learning = {"at": "decoder", "strategy": "covipal_style", "layer": 0, "keep": 9}
    made = session(loaded, stages(learning, FASTV))
    learner: Any = made._stages[0].strategy
    guided = TrainingStep(0, covipal.GUIDANCE.name, 0.0, torch.Generator())
    with pytest.raises(PlanError, match=r"36 tokens are scored, .* layer 3, 6 are left"):
        learner.loss(made, batch(loaded), guided)
    # where the other stage stands at the guide's layer, it acts behind the guide
    late = session(loaded, stages(learning, {**FASTV, "layer": 3}))
    learner = late._stages[0].strategy
    assert learner.loss(late, batch(loaded), guided).loss.isfinite()


@torch.no_grad()
def test_a_tap_reads_inside_the_layers_of_a_stage_that_is_asked_at_all() -> None:
    loaded = tiny()
    questions = batch(loaded)
    exits = {"at": "decoder", "strategy": "dyvte", "params": {"exit_layer": 1}}
    first = {"at": "decoder", "strategy": "covipal_style", "layer": 0, "keep": 6}
    both = session(loaded, stages(first, exits))
    assert both.layers == range(1)
    logits, seen = both.dense(questions, {0: TEXT, 2: TEXT})
    assert (seen[0].count, seen[2].count) == (36, 36)
    alone = session(loaded, stages(exits, {**FASTV, "layer": 3}), 1)
    torch.testing.assert_close(logits, alone.dense(questions)[0])
