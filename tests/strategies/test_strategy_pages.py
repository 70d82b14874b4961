"""The pages of the docs say what the code says."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import to_jsonable_python
from tokenprune_strategies import plugin

from tokenprune.interface.strategy import PruningStrategy, places

PAGES = Path(__file__).parents[2] / "docs" / "strategies"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| ([\w-]+) \|", re.MULTILINE)
ALL: list[type[PruningStrategy[Any]]] = []
plugin.register_strategies(ALL.append)


def written(value: object) -> str:
    plain = to_jsonable_python(value)
    if plain is None:
        return "null"
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def whose_default(strategy: type[PruningStrategy[Any]], name: str) -> tuple[str, ...]:
    """Words of the page for what the strategy says of a default."""
    field, about = strategy.Params.model_fields[name], strategy.about
    if name in (about.ours or ()):
        return ("ours",)
    words = {"the code's": "code", "OpenVINO's": "OpenVINO"}
    if name in about.borrowed:
        return (words[about.borrowed[name]],)
    # what None stands for may still be the paper's
    return ("paper", "-") if field.is_required() or field.default is None else ("paper",)


@pytest.mark.parametrize("strategy", ALL, ids=lambda strategy: strategy.name)
def test_a_page_lists_every_parameter_with_its_default_and_whose_it_is(
    strategy: type[PruningStrategy[Any]],
) -> None:
    page = (PAGES / f"{strategy.name}.md").read_text(encoding="utf-8")
    listed = {name: (default, whose) for name, default, whose in ROW.findall(page)}
    fields = strategy.Params.model_fields
    assert set(listed) == set(fields)
    for name, field in fields.items():
        default, whose = listed[name]
        assert default == written(field.default), name
        assert whose in whose_default(strategy, name), name
    for stage in places(strategy):
        assert f"`at: {stage}`" in page or f"`{stage}`" in page
    papers = re.findall(r"\d{4}\.\d{5}", strategy.about.paper)
    assert all(paper in page for paper in papers)


def test_the_index_and_the_provenance_table_name_every_strategy() -> None:
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    provenance = (PAGES.parent / "provenance.md").read_text(encoding="utf-8")
    for strategy in ALL:
        assert f"[`{strategy.name}`]({strategy.name}.md)" in index
        assert f"| `{strategy.name}` |" in provenance
