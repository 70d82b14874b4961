"""Imports go one way: no circle of files, with imports for types only and inside functions counted.

The layers between rooms are contracts of import-linter, in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import grimp
import pytest

PACKAGES = ("tokenprune", "tokenprune_strategies", "tokenprune_adapters")


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, the first one again at the end; empty if none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_no_file_imports_itself_by_way_of_others(imports: dict[str, set[str]]) -> None:
    assert circle(imports) == []


def test_every_kind_of_import_counts(imports: dict[str, set[str]]) -> None:
    plain = "tokenprune.engine.attach", "tokenprune.engine.attachment"
    inside_a_function = "tokenprune.cli.plugins", "tokenprune.plugins.host"
    for_types_only = "tokenprune.lab.studies.plugs", "tokenprune.lab.studies.runners"
    for module, imported in (plain, inside_a_function, for_types_only):
        assert imported in imports[module]


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    found = circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    assert set(found) == {"b", "c"}
    assert found[0] == found[-1]
