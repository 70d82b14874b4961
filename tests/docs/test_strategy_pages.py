"""The page of a strategy has its parameters, with the defaults of the code and whose they are."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.docs.blocks import ROOT
from tokenprune.plugins.host import host

STRATEGIES = dict(host().strategies)

#: Rows of `| parameter | default | whose | meaning |`.
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \| ([^|]*) \|", re.MULTILINE)


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", STRATEGIES)
def test_parameters_stand_on_the_page_as_in_the_code(name: str) -> None:
    kind = STRATEGIES[name]
    text = (ROOT / "docs" / "strategies" / f"{name}.md").read_text(encoding="utf-8")
    shown = {key: (yaml.safe_load(value), whose) for key, value, whose in ROW.findall(text)}
    fields = kind.Params.model_fields
    assert {key: value for key, (value, _) in shown.items()} == {
        key: plain(field.default) for key, field in fields.items()
    }
    ours = {key for key, (_, whose) in shown.items() if "ours" in whose}
    assert ours == set(kind.about.ours or {}) & set(fields)
