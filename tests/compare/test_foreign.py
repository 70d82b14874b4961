"""A foreign strategy that can't run is a row left out, with the reason; all others run."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from tests.plugin import registering
from tokenprune.cli.app import app
from tokenprune.errors import LayerError, PlanError, StrategyFailedError
from tokenprune.interface.loading import LoadedModel, LoadOptions
from tokenprune.interface.placement import Decoder, Encoder, PreLlm
from tokenprune.interface.strategy import ScoreStrategy, StrategyParams
from tokenprune.interface.tokens import Tokens
from tokenprune.lab.compare import Comparison, Settings, Source, compare, tables
from tokenprune.lab.models import load_model
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host, register_plugin
from tokenprune.plugins.matrix import Fit, matrix

OPTIONS = LoadOptions()


def compared(loaded: LoadedModel, settings: Settings, *pictures: Path) -> Comparison:
    return compare(Source(loaded.name, OPTIONS, settings, *pictures), loaded)


class Norm(ScoreStrategy[StrategyParams]):
    stages = (PreLlm(),)

    def score(self, tokens: Tokens) -> Tensor:
        return tokens.hidden.norm(dim=-1)


class Sound(Norm):
    name = "tp-sound"


class Deep(Norm):
    """For models of more layers."""

    name, stages = "tp-deep", (Decoder(layer=99),)


class DeepInside(Norm):
    name, stages = "tp-deep-inside", (Encoder(layer=99),)


class Odd(Norm):
    """Whose layer can't be told."""

    name, stages = "tp-odd", (Decoder(layer=lambda layers: layers // 0),)


class Raising(Norm):
    name = "tp-raising"

    def score(self, tokens: Tokens) -> Tensor:
        raise ValueError("no luck")


class Later(Norm):
    """Raises at its third call, when some batches have run."""

    name, calls = "tp-later", 0

    def score(self, tokens: Tokens) -> Tensor:
        type(self).calls += 1
        if type(self).calls > 2:
            raise ValueError("no more luck")
        return super().score(tokens)


class Wrong(Norm):
    """Answers something that is no score."""

    name = "tp-wrong"

    def score(self, tokens: Tokens) -> Any:
        return "best"


class Needy(Norm):
    name = "tp-needy"

    class Params(StrategyParams):
        alpha: float


class Clueless(Norm):
    """Doesn't know what it needs."""

    name = "tp-clueless"

    def signals(self, site: object) -> tuple[Any, ...]:
        raise RuntimeError("no idea")


BROKEN = {
    Deep: "the LLM has no layer 99",
    DeepInside: "99",
    Odd: r"it raised ZeroDivisionError \(tests/compare/test_foreign.py:\d+, in ",
    Raising: r"raised ValueError \(tests/compare/test_foreign.py:\d+, in score\): no luck",
    Later: r"raised ValueError \(tests/compare/test_foreign.py:\d+, in score\): no more luck",
    Wrong: "tp-wrong",
    Needy: "'alpha' is missing",
    Clueless: r"RuntimeError \(tests/compare/test_foreign.py:\d+, in signals\): no idea",
}


@contextmanager
def few(*names: str) -> Iterator[None]:
    """Compare these of the strategies that ship instead of a dozen."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tokenprune.lab.compare.chosen.DOZEN", names)
        yield


@pytest.fixture(scope="module")
def found(llava: LoadedModel) -> Comparison:
    with register_plugin(registering(Sound, *BROKEN), "foreign"), few("evoprune", "fastv"):
        settings = Settings(keeps=(9,), limit=6, batch_size=2, positions="original", match="stage")
        return compared(llava, settings)


def test_all_others_run(found: Comparison) -> None:
    names = {row.name for row in found.results}
    assert {"tp-sound", "random", "fastv", "evoprune"} <= names
    assert not names & {kind.name for kind in BROKEN}
    assert found.failures == []
    assert all(len(row.run.answers) == 6 for row in found.results)


@pytest.mark.parametrize("kind", BROKEN)
def test_the_reason_is_in_the_record_and_under_the_table(
    kind: type[Norm], found: Comparison
) -> None:
    (reason,) = [line for line in found.data()["left_out"] if line.startswith(f"{kind.name} is")]
    assert re.search(BROKEN[kind], reason), reason
    console = Console(width=200, record=True, file=io.StringIO())
    for part in tables(found, 200):
        console.print(part)
    assert reason in " ".join(console.export_text().split())


@pytest.mark.parametrize(
    ("kind", "error"), [(Deep, LayerError), (Raising, StrategyFailedError), (Needy, PlanError)]
)
def test_a_strategy_that_the_user_names_fails_loudly(
    kind: type[Norm], error: type[Exception], llava: LoadedModel
) -> None:
    stage = {"at": kind.stages[0].at, "strategy": kind.name, "keep": 9}
    with register_plugin(registering(kind), "foreign"), pytest.raises(error):
        compared(llava, Settings([("mine", load_plan({"stages": [stage]}))], limit=2))


def test_processes_leave_the_row_out_too(llava: LoadedModel) -> None:
    """Processes don't know a plugin that was registered by hand, so nothing of it can run."""
    with register_plugin(registering(Sound), "foreign"), few("fastv"):
        settings = Settings(keeps=(9,), limit=2, positions="original", jobs=2, match="stage")
        result = compared(llava, settings)
    assert any("there is no strategy 'tp-sound'" in line for line in result.left_out)
    assert {"random", "fastv"} <= {row.name for row in result.results}


def test_the_command_ends_well(llava_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    arguments = ["compare", "--model", llava_folder, "--keep", 9, "--limit", 2, "--out", out]
    with register_plugin(registering(Sound, Raising, Needy), "foreign"), few("fastv"):
        done = CliRunner().invoke(app, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    record = json.loads(out.read_text())
    assert len([line for line in record["left_out"] if line.startswith("tp-")]) == 2


def test_an_encoders_comparison_goes_on(timm_weights: Path, pictures: Path) -> None:
    class Inside(Raising):
        name, stages = "tp-inside", (Encoder(),)

    with register_plugin(registering(Inside), "foreign"):
        vit = load_model("timm:test_vit", LoadOptions(weights=timm_weights))
        settings = Settings(keeps=(30,), batch_size=3)
        result = compared(vit, settings, pictures, pictures / "labels.csv")
    assert ["raised ValueError" in line for line in result.left_out] == [True]


def test_the_matrix_shows_no_such_strategy_as_running() -> None:
    with register_plugin(registering(Sound, *BROKEN), "foreign"):
        rows = matrix({name: kind for name, kind in host().strategies.items() if "tp-" in name})
    cells: dict[str, list[Fit]] = {row[0].strategy: row for row in rows}
    for kind in (Deep, DeepInside, Odd, Needy, Clueless):
        assert not any(cell.runs for cell in cells[kind.name]), kind
        assert any(cell.notes for cell in cells[kind.name])
    assert any(cell.runs for cell in cells["tp-sound"])
