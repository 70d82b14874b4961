"""Merge keys of YAML: the same answer whichever PyYAML is installed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.errors import PlanError
from tokenprune.plan.read import parse

KEYS = ("at", "keep", "layer", "strategy")


@dataclass
class Mapping:
    """A mapping of a file: its own keys, and the numbers of earlier mappings that it merges."""

    own: dict[str, int] = field(default_factory=dict)
    merges: list[int] = field(default_factory=list)

    def text(self, number: int) -> str:
        parts = [f"{key}: {value}" for key, value in self.own.items()]
        if self.merges:
            names = [f"*m{merged}" for merged in self.merges]
            merge = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
            parts.insert(len(parts) // 2, f"<<: {merge}")
        return f"- &m{number} {{{', '.join(parts)}}}\n"


def oracle(mappings: list[Mapping], number: int) -> dict[str, int]:
    """YAML's rule, word by word: an own key stays; of several merged mappings the first wins."""
    result: dict[str, int] = dict(mappings[number].own)
    for merged in mappings[number].merges:
        for key, value in oracle(mappings, merged).items():
            if key not in result:
                result[key] = value
    return result


@st.composite
def files(draw: st.DrawFn) -> list[Mapping]:
    mappings: list[Mapping] = []
    for number in range(draw(st.integers(1, 6))):
        own = draw(st.dictionaries(st.sampled_from(KEYS), st.integers(0, 9), max_size=3))
        merges = draw(st.lists(st.integers(0, number - 1), max_size=3)) if number else []
        mappings.append(Mapping(own, merges))
    return mappings


@given(files())
def test_nested_merges_and_lists_of_them_follow_the_rule(mappings: list[Mapping]) -> None:
    text = "".join(each.text(number) for number, each in enumerate(mappings))
    assert parse(text, "here") == [oracle(mappings, number) for number in range(len(mappings))]


def test_a_mapping_that_is_read_before_what_it_merges_is_complete() -> None:
    text = "top: {inner: &a {<<: &b {x: 0, yy: 0}, x: 1}}\nlast: {<<: [*a, *b], z: 2}\n"
    assert parse(text, "here") == {
        "top": {"inner": {"x": 1, "yy": 0}},
        "last": {"x": 1, "yy": 0, "z": 2},
    }


def test_a_mapping_that_merges_itself_gains_nothing() -> None:
    assert parse("&a {<<: *a, x: 1}", "here") == {"x": 1}


def test_a_quoted_merge_key_is_a_key() -> None:
    assert parse("{'<<': 3, x: 1}", "here") == {"<<": 3, "x": 1}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: {y: 2}\n", "'<<' stands here twice"),
        ("a:\n  <<: 3\n", "'<<' merges mappings, this is a value"),
        ("a:\n  <<: [{x: 1}, [2]]\n", "'<<' merges mappings, this is a list"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says) as caught:
        parse(text, "plan.yaml")
    assert "plan.yaml, line" in caught.value.where
