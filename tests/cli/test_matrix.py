import json

from typer.testing import CliRunner

from tokenprune.cli import app
from tokenprune.interface.signals import Signal
from tokenprune.plugins.host import host
from tokenprune.plugins.matrix import alike, footnotes, matrix

RUN = CliRunner()


def test_the_matrix_names_every_strategy_and_fits_80_columns() -> None:
    result = RUN.invoke(app, ["list", "--matrix"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for row in zip(*alike(matrix()), strict=True):
        parts = [line for line in lines if f"│{row[0].strategy} " in line]
        assert parts
        cells = [cell.strip() for line in parts for cell in line.split("│")[2:-1]]
        assert [cell.startswith("-") for cell in cells] == [not one.runs for one in row]
        assert [set("EPD") & set(cell) for cell in cells] == [
            {at[0].upper() for at in one.runs} for one in row
        ]
    shown = " ".join(result.stdout.split())
    for number, note in enumerate(footnotes(matrix()), start=1):
        assert f"{number} {note}" in shown


def test_a_wide_terminal_gets_one_table() -> None:
    result = RUN.invoke(app, ["list", "--matrix"], env={"COLUMNS": "400"})
    assert result.stdout.count("strategy") == 1


def test_the_matrix_as_json() -> None:
    result = RUN.invoke(app, ["list", "--matrix", "--json"])
    cells = json.loads(result.stdout)
    assert {cell["strategy"] for cell in cells} == host().strategies.keys()
    fastv = {(c["adapter"], c["tower"]): c for c in cells if c["strategy"] == "fastv"}
    assert fastv["llava", "siglip"]["runs"] == ["decoder"]
    assert fastv["clip", None]["runs"] == []
    assert "encoder alone" in fastv["clip", None]["refused"]["decoder"]


LOOKING = ["adaptprune", "fastv", "flashvid", "framefusion", "holitom"]


def test_the_signals_and_who_asks_for_them() -> None:
    found = json.loads(RUN.invoke(app, ["list", "--signals", "--json"]).stdout)
    own = ["adaptprune_keys", "aim_page_rank", "pact_agreement", "pact_keys"]
    assert [one["name"] for one in found] == [*Signal.shipped(), *own]
    asking = {one["name"]: one["strategies"] for one in found}
    assert asking["last_query_attention"] == LOOKING
    assert asking["aim_page_rank"] == ["aim"]
    shown = RUN.invoke(app, ["list", "--signals"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    assert all(f"│ {name} " in shown.stdout for name in Signal.shipped())
    both = RUN.invoke(app, ["list", "--signals", "--matrix"])
    assert both.exit_code == 2
    assert "one of" in both.output
