"""What an author declares: places, length, and what is said in the author's name."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import Field
from torch import Tensor
from typer.testing import CliRunner

from tests.plugin import registering
from tokenprune import About, Decoder, Encoder, PreLlm, PruningStrategy, ScoreStrategy, Tokens
from tokenprune.cli.app import app
from tokenprune.errors import PlanError
from tokenprune.interface.placement import Step, default_schedules, own_layers
from tokenprune.interface.strategy import StrategyParams, placement, places
from tokenprune.plugins.host import register_plugin

MOST_ATTRIBUTES = 8


class StrangerParams(StrategyParams):
    alpha: float = Field(description="Required.")
    beta: float = 0.5
    gamma: float = 0.25
    delta: int | None = None


class Stranger(ScoreStrategy[StrangerParams]):
    """Of somebody who says nothing."""

    name = "stranger"
    Params = StrangerParams
    stages = (PreLlm(), Decoder(layer=lambda layers: layers // 2))

    def score(self, tokens: Tokens) -> Tensor:
        return tokens.hidden[..., 0]


class Modest(Stranger):
    """Of somebody who says whose the defaults are."""

    name = "modest"
    about: ClassVar[About] = About(
        paper="Modesty, arXiv 0000.00000", licence="MIT", ours={"gamma": "a guess"}
    )


@pytest.mark.parametrize("base", [PruningStrategy, ScoreStrategy])
def test_an_author_meets_few_class_attributes(base: type[Any]) -> None:
    declared = {
        name
        for part in base.__mro__
        for name, kind in vars(part).get("__annotations__", {}).items()
        if str(kind).startswith("ClassVar")
    }
    assert declared == {"name", "Params", "stages", "length", "about"}
    others = {
        name
        for part in base.__mro__[:-1]
        for name, value in vars(part).items()
        if not name.startswith("_") and not callable(value)
    }
    others -= {name for name in others if isinstance(vars(PruningStrategy).get(name), classmethod)}
    assert len(declared | others) <= MOST_ATTRIBUTES


def test_a_place_is_found_by_its_name_and_refused_in_words() -> None:
    assert places(Stranger) == ("pre_llm", "decoder")
    assert placement(Stranger, "pre_llm") == PreLlm()
    assert placement(Stranger, "decoder").layer_of(12) == 6
    with pytest.raises(PlanError, match=r"'stranger' can't act at 'encoder'.*pre_llm, decoder"):
        placement(Stranger, "encoder")


def test_defaults_in_words() -> None:
    deep = Decoder(layer=lambda layers: layers // 2)
    assert own_layers((Encoder(layer=3), PreLlm(), deep)) == ["3", "16 of 32, by depth"]
    assert own_layers((Encoder(), Decoder(layer=0))) == ["0"]
    assert own_layers((Encoder(), Decoder())) == []
    steps = Decoder(steps=lambda layers: (Step(1, 0.5), Step(layers // 2, 0.5)))
    assert own_layers((steps,)) == ["1 and 16 of 32, by depth"]
    assert default_schedules((Encoder(schedule="mean"), PreLlm())) == ["mean"]
    assert default_schedules((Encoder(layer=3),)) == []
    assert default_schedules((Encoder(schedule=None),)) == []


def described(kind: type[PruningStrategy[Any]]) -> dict[str, str]:
    """The lines of `tokenprune describe` by their first word."""
    with register_plugin(registering(kind), "stranger"):
        result = CliRunner().invoke(app, ["describe", kind.name], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    lines = [line.strip("│┃ ") for line in result.output.splitlines()]
    return {line.split()[0]: line for line in lines if line}


def test_nothing_is_claimed_for_those_who_say_nothing() -> None:
    shown = described(Stranger)
    assert "not stated" in shown["paper"]
    assert "not stated" in shown["licence"]
    assert shown["alpha"].endswith("-"), "there is no default"
    assert shown["beta"].endswith("not stated")
    assert shown["delta"].endswith("-")


def test_what_an_author_states_is_shown() -> None:
    shown = described(Modest)
    assert "arXiv 0000.00000" in shown["paper"]
    assert "MIT" in shown["licence"]
    assert shown["beta"].endswith("the paper's")
    assert shown["gamma"].endswith("ours: a guess")
