import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import tokenprune
from tests.mllm.calls import model
from tests.plugin import registering
from tokenprune import ScoreStrategy, Signal, Site, StrategyParams, Tokens
from tokenprune.cli import app
from tokenprune.cli.plans import file_names, named_plans
from tokenprune.errors import CheckpointError, LayerError, PlanError
from tokenprune.interface.placement import PreLlm
from tokenprune.plan import load_plan
from tokenprune.plugins.host import host, register_plugin

PLAN = """
schema_version: 1
stages:
  - {at: encoder, strategy: tome, keep: 16}
"""
RUN = CliRunner()


def run(*args: object, columns: str = "200") -> tuple[int, str, str]:
    result = RUN.invoke(app, [str(arg) for arg in args], env={"COLUMNS": columns})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN)
    return path


@pytest.mark.parametrize(
    "name", ["compare", "verify", "show", "list", "describe", "validate", "schema"]
)
def test_every_help_has_an_example(name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"tokenprune {name}" in out.split("Example")[1]


def test_list_shows_every_strategy() -> None:
    code, out, _ = run("list")
    assert code == 0
    assert all(name in out for name in host().strategies)
    code, out, _ = run("list", "--json")
    facts = {entry["name"]: entry for entry in json.loads(out)}
    assert facts.keys() == host().strategies.keys()
    assert facts["vistog"]["training_free"] is False
    assert facts["fastv"]["stages"] == ["decoder"]


@pytest.mark.parametrize("name", ["evoprune", "fopru", "vistog", "ipcv", "fastv", "tome", "random"])
def test_describe_shows_parameters_paper_and_whose_default(name: str) -> None:
    code, out, _ = run("describe", name)
    assert code == 0
    kind = host().strategies[name]
    shown = " ".join(out.split())
    for field in kind.Params.model_fields.values():
        assert field.alias is None
    assert all(parameter in out for parameter in kind.Params.model_fields)
    assert " ".join(kind.about.summary.split()) in shown
    assert kind.stages[0].at in out
    assert ("ours" in out) == bool(kind.about.ours)


def test_validate_prints_the_plan_as_understood(plan: Path) -> None:
    code, out, err = run("validate", plan, "--set", "stages.0.keep=9", "--set", "seed=4")
    assert code == 0
    assert "keep: 9" in out
    assert "seed: 4" in out
    assert "valid" in err
    plan.write_text(out)
    assert run("validate", plan)[1] == out


def test_validate_says_what_attach_says(tmp_path: Path) -> None:
    """A plan that is complete but for weights is right for `tokenprune train`."""
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: vistog, keep: 4}]")
    with pytest.raises(CheckpointError) as refusal:
        tokenprune.attach(model(), load_plan(plan))
    code, _, err = run("validate", plan)
    assert code == 0
    assert f"valid for training only: {refusal.value}" in err
    plan.write_text("stages: [{at: pre_llm, strategy: trim}]")
    with pytest.raises(PlanError) as refused:
        tokenprune.attach(model(), load_plan(plan))
    code, _, err = run("validate", plan)
    assert code == 2
    assert refused.value.message in " ".join(err.split())


class Deep(ScoreStrategy[StrategyParams]):
    """Reads a block that small models don't have."""

    name = "t-deep"
    stages = (PreLlm(),)

    def signals(self, site: Site) -> tuple[Signal, ...]:
        if site.layers < 20:
            raise LayerError("the encoder has no block 20.")
        return ()

    def score(self, tokens: Tokens) -> Tensor:
        return tokens.size


def test_validate_leaves_to_attach_what_depends_on_the_model(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: t-deep, keep: 4}]")
    with register_plugin(registering(Deep), "deep"):
        assert run("validate", plan)[0] == 0


def test_position_ids_are_told_with_who_says_so(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: vscan, keep: 9}]")
    assert "compact (as vscan has them)" in run("validate", plan)[2]
    own = run("validate", plan, "--set", "positions=original")[2]
    assert "original (as the plan says)" in own
    assert "compact at pre_llm, as its official code has them" in run("describe", "prunevid")[1]
    assert "original, unless the plan says compact" in run("describe", "fastv")[1]


def test_schema_is_json_with_every_strategy() -> None:
    code, out, _ = run("schema")
    schema = json.loads(out)
    assert code == 0
    assert set(schema["$defs"]["StagePlan"]["properties"]["strategy"]["enum"]) == set(
        host().strategies
    )


def test_plugins_and_doctor_list_what_is_installed() -> None:
    code, out, _ = run("plugins")
    assert code == 0
    assert "evoprune" in out
    assert "No plugin has a problem." in out
    code, out, _ = run("plugins", "--json")
    found = json.loads(out)
    assert found["problems"] == []
    brought = {plugin["name"]: plugin["brought"] for plugin in found["plugins"]}
    assert brought["lab"]["metrics"] == ["accuracy", "vqa_accuracy"]
    _, out, _ = run("doctor")
    assert "torch" in out
    assert "bipartite_match" in out
    assert "selection ops on cpu" in out


def test_a_broken_plugin_is_named_and_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenprune.plugins.info import PluginProblem

    problem = PluginProblem("odd", "odd-package", "can't be imported: ImportError.")
    monkeypatch.setattr(host(), "problems", [problem])
    for name in ("plugins", "doctor"):
        code, out, _ = run(name)
        assert code == 1
        assert "plugin 'odd' of 'odd-package'" in out
    code, out, _ = run("plugins", "--json")
    assert code == 1
    assert json.loads(out)["problems"][0]["message"] == problem.message


@pytest.mark.parametrize("arguments", [("list",), ("list", "--matrix"), ("plugins",)])
def test_listings_fit_80_columns_without_cutting_names(
    arguments: tuple[str, ...],
) -> None:
    _, out, _ = run(*arguments, columns="80")
    assert max(map(len, out.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in out
    assert all(name in out for name in host().strategies)


def test_a_plugin_that_raises_is_exit_code_2_and_the_model_still_works(
    llava_folder: Path, tmp_path: Path
) -> None:
    import tokenprune
    from tokenprune.interface.strategy import PruningStrategy, StrategyParams

    class Broken(PruningStrategy[StrategyParams]):
        name = "broken"
        stages = (PreLlm(),)

        def reduce(self, tokens: object, budget: object) -> tokenprune.Reduction:
            raise RuntimeError("a bug in the plugin")

    plan = tmp_path / "plan.yaml"
    plan.write_text("stages: [{at: pre_llm, strategy: broken, keep: 4}]")
    out = tmp_path / "c.json"
    args = ("compare", "--model", llava_folder, "--plans", plan, "--limit", 2, "--out", out)
    with register_plugin(registering(Broken), "broken"):
        code, _, err = run(*args)
    assert code == 2
    assert "broken" in err
    assert "a bug in the plugin" in err
    assert not out.exists()


def test_show_draws_the_panels(llava_folder: Path, pictures: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "stages:\n"
        "  - {at: encoder, strategy: tome, keep: 16}\n"
        "  - {at: pre_llm, strategy: fopru, keep: 0.5}\n"
        "  - {at: decoder, strategy: fastv, keep: 4, layer: 2}\n"
    )
    out = tmp_path / "tokens.png"
    images = (pictures / "0.png", pictures / "1.png")
    code, said, _ = run("show", *images, "--plan", plan, "--model", llava_folder, "--out", out)
    assert code == 0
    assert "tokens.png" in said
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 400
        assert sheet.height > 2 * 400
    again = ("--out", out, "--force", "--sites")
    one = run("show", images[0], "--plan", plan, "--model", llava_folder, *again)
    assert one[0] == 0
    with Image.open(out) as wider:
        assert wider.width > sheet.width


def test_show_draws_a_classifier(timm_weights: Path, pictures: Path, plan: Path) -> None:
    out = plan.parent / "tokens.png"
    code, _, _ = run(
        *("show", pictures / "0.png", "--plan", plan, "--set", "stages.0.keep=50"),
        *("--model", "timm:test_vit", "--weights", timm_weights, "--out", out),
    )
    assert code == 0
    assert Image.open(out).width > 2 * 400


def test_compare_prints_a_table_and_writes_the_record(llava_folder: Path, plan: Path) -> None:
    out = plan.parent / "record.json"
    other = plan.parent / "other.yaml"
    other.write_text("stages: [{at: pre_llm, strategy: random, keep: 16}]")
    code, said, _ = run(
        *("compare", "--plans", plan, other, "--keep", 16, 9, "--model", llava_folder),
        *("--limit", 2, "--out", out, "--answers", "--by-type"),
    )
    assert code == 0
    rows = json.loads(out.read_text())["results"]
    assert [(row["name"], row["keep"]) for row in rows] == [
        ("plan", "16"),
        ("plan", "9"),
        ("other", "16"),
        ("other", "9"),
    ]
    assert rows[0]["versus_random"] is not None
    for word in ("dense,", "random,", "answers,", "encoder", "FLOPs", "select", "decode"):
        assert word in said
    assert "accuracy by question type" in said


def test_no_random_row_is_added_to_plans_of_ones_own_and_the_help_says_so(
    llava_folder: Path, tmp_path: Path
) -> None:
    plan, out = tmp_path / "plan.yaml", tmp_path / "record.json"
    plan.write_text("stages: [{at: decoder, strategy: fastv, keep: 4, layer: 1}]")
    args = ("--plans", plan, "--model", llava_folder, "--limit", 2, "--out", out)
    assert run("compare", *args)[0] == 0
    assert [row["name"] for row in json.loads(out.read_text())["results"]] == ["plan"]
    said = " ".join(run("compare", "--help")[1].split())
    assert "With `--plans`, those plans are all rows." in said


def test_plan_files_of_one_name_are_rows_of_two_names(llava_folder: Path, tmp_path: Path) -> None:
    text = "stages: [{at: pre_llm, strategy: random, keep: 4}]"
    files = [tmp_path / "x" / "plan.yaml", tmp_path / "y" / "plan.yaml"]
    for file in files:
        file.parent.mkdir()
        file.write_text(text)
    out = tmp_path / "record.json"
    args = ("--plans", *files, "--model", llava_folder, "--out", out, "--force")
    code, said, _ = run("compare", *args, "--limit", 2)
    assert code == 0
    names = [row["name"] for row in json.loads(out.read_text())["results"]]
    assert names == ["x/plan", "y/plan"]
    assert all(name in said for name in names)
    code, said, _ = run("bench", *args, "--rounds", 1, "--size", 28)
    record = json.loads(out.read_text())
    assert [row["name"] for row in record["rows"]] == ["dense", *names]
    assert [*record["plans"]] == names
    for file in files:
        file.write_text(f"name: mine\n{text}")
    assert run("compare", *args, "--limit", 2)[0] == 0
    names = [row["name"] for row in json.loads(out.read_text())["results"]]
    assert names == ["mine (x/plan)", "mine (y/plan)"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a.yaml", "b.yaml"], ["a", "b"]),
        (["x/p.yaml", "y/p.yaml", "x/q.yaml"], ["x/p", "y/p", "q"]),
        (["x/1/p.yaml", "y/1/p.yaml", "y/2/p.yaml"], ["x/1/p", "y/1/p", "2/p"]),
        (["p.yaml", "x/../p.yaml", "x/p.yml"], ["p", "p (2)", "x/p"]),
        ([], []),
    ],
)
def test_plan_files_are_called_apart(given: list[str], expected: list[str]) -> None:
    assert file_names([*map(Path, given)]) == expected


def test_plans_are_called_as_they_say_or_as_their_files(tmp_path: Path) -> None:
    names = {"a": "name: ours", "b": "", "c": "name: twice", "d": "name: twice"}
    paths = [tmp_path / f"{file}.yaml" for file in names]
    for path, name in zip(paths, names.values(), strict=True):
        path.write_text(f"schema_version: 1\n{name}\n")
    found = [name for name, _ in named_plans(paths)]
    assert found == ["ours", "b", "twice (c)", "twice (d)"]


def test_compare_of_a_classifier(timm_weights: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    code, said, _ = run(
        *("compare", "--model", "timm:test_vit", "--weights", timm_weights, "--keep", 50),
        *("--images", pictures, "--labels", pictures / "labels.csv", "--split", "first"),
        *("--out", out),
    )
    assert code == 0
    record = json.loads(out.read_text())
    assert record["kind"] == "classifier"
    assert record["model"]["name"] == "timm:test_vit"
    assert record["task"]["samples"] == 3
    assert "patches" in said


def test_a_failed_expectation_is_exit_code_1(
    llava_folder: Path, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenprune.lab.compare.run.failed_checks", lambda *_: ["counts differ."])
    out = plan.parent / "record.json"
    args = ("compare", "--plans", plan, "--model", llava_folder, "--limit", 2, "--out", out)
    code, said, _ = run(*args)
    assert code == 1
    assert "counts differ." in said
    assert json.loads(out.read_text())["failures"] == ["counts differ."]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("compare --plans a b --keep 1", "compare --plans a --plans b --keep 1"),
        ("compare --keep 1 2 3", "compare --keep 1 --keep 2 --keep 3"),
        ("compare --plans a --plans b c", "compare --plans a --plans b --plans c"),
        ("show x y --plan p", "show x y --plan p"),
        ("compare --plans=a b", "compare --plans=a --plans b"),
        ("compare --prompt x y", "compare --prompt x --prompt y"),
        ("bench --plans a b --size 1 2", "bench --plans a --plans b --size 1 --size 2"),
        ("show --frames 2 x --plan p", "show --frames 2 x --plan p"),
        ("verify x --set a b", "verify x --set a b"),
        ("unknown --plans a b", "unknown --plans a b"),
        ("compare --plans", "compare --plans"),
        ("", ""),
    ],
)
def test_options_that_take_several_values(given: str, expected: str) -> None:
    group: Any = typer.main.get_command(app)
    assert group.understood(given.split()) == expected.split()


@pytest.mark.parametrize(("command", "paused"), [("validate", True), ("compare", False)])
def test_brief_commands_collect_no_garbage(
    command: str, paused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    program = sys.modules["tokenprune.cli.app"]  # the package has the app itself by that name
    monkeypatch.setattr(program.gc, "disable", lambda: called.append("disable"))
    monkeypatch.setattr(program, "app", lambda: called.append("app"))
    monkeypatch.setattr(sys, "argv", ["tokenprune", command])
    program.main()
    assert called == ["disable"] * paused + ["app"]


def test_the_version_is_that_of_the_package() -> None:
    result = RUN.invoke(app, ["--version"])
    assert result.output == f"tokenprune {metadata.version('tokenprune')}\n"
    assert result.exit_code == 0
