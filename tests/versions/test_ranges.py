"""The tested ranges: data in pyproject.toml, read from the metadata, named by the README."""

import re
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenprune.errors import DependencyError
from tokenprune.interface import versions
from tokenprune.interface.versions import LIBRARIES, VersionRange, outside, refuse_older

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS: list[str] = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]

Install = Callable[[str, str], None]


def test_every_requirement_has_both_bounds_and_the_same_ones_in_every_extra() -> None:
    bounds: dict[str, str] = {}
    for line in REQUIREMENTS:
        if line.startswith("tokenprune["):
            continue
        match = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(>=[\d.]+,<[\d.]+)", line)
        assert match, f"{line}: neither pinned nor open, please"
        assert bounds.setdefault(match[1].lower(), match[2]) == match[2], line


def test_the_installed_metadata_is_that_of_pyproject() -> None:
    for line in REQUIREMENTS:
        match = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+),<([\d.]+)", line)
        if match:
            assert versions.tested(match[1]) == VersionRange(match[2], match[3]), (
                "install again: pip install -e ."
            )


def test_the_readme_names_the_same_versions() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"\b(torch|transformers|timm) ([\d.]+ to [\d.]*\d)", text))
    assert set(named) == set(LIBRARIES)
    for library, words in named.items():
        low, high = words.split(" to ")
        span = versions.tested(library)
        assert low == span.low
        *same, minor = (int(part) for part in high.split(".")[:2])
        assert span.below == ".".join(str(part) for part in (*same, minor + 1))


@pytest.mark.parametrize(
    ("version", "side"),
    [
        ("5.16.9", "older"),
        ("4.57.1", "older"),
        ("5.17", None),
        ("5.17.0", None),
        ("5.17.0.dev0", None),
        ("5.24.99", None),
        ("5.24.0+local.9", None),
        ("5.25.0.dev0", "newer"),
        ("5.25", "newer"),
        ("10.0", "newer"),
    ],
)
def test_sides(
    install: Install, monkeypatch: pytest.MonkeyPatch, version: str, side: str | None
) -> None:
    monkeypatch.setattr(versions, "tested", lambda name: VersionRange("5.17", "5.25"))
    install("transformers", version)
    assert outside("transformers") == side


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
)
def test_releases_are_ordered_by_their_numbers_and_zeros_at_the_end_say_nothing(
    one: list[int], two: list[int]
) -> None:
    def padded(numbers: list[int]) -> list[int]:
        return numbers + [0] * (4 - len(numbers))

    first, second = (versions._release(".".join(map(str, each))) for each in (one, two))
    assert (first < second) == (padded(one) < padded(two))
    assert (first == second) == (padded(one) == padded(two))


def test_a_library_that_is_not_installed_is_on_no_side() -> None:
    assert outside("lmms-eval") is None or versions.installed("lmms-eval")


def test_an_older_version_is_refused_with_the_range(install: Install) -> None:
    refuse_older()
    install("timm", "1.0.19")
    with pytest.raises(DependencyError) as caught:
        refuse_older()
    said = str(caught.value)
    assert said.startswith("timm 1.0.19: ")
    assert str(versions.tested("timm")) in said
    assert "pip install 'timm>=" in said


@pytest.mark.parametrize(
    ("module", "library"),
    [
        ("PIL", "pillow"),
        ("av", "av"),
        ("lmms_eval.api", None),
        ("PIL.Image", None),
        ("torch", None),
    ],
)
def test_a_missing_module_of_an_extra_is_named(module: str, library: str | None) -> None:
    found = versions.missing(ModuleNotFoundError("absent", name=module))
    assert (found is None) == (library is None)
    if found is not None:
        assert str(found).startswith(f"import {module}: {library} isn't installed. Install it: pip")
        extra = re.search(r"'\.\[(\w+)\]'", found.remedy)
        assert extra
        assert extra[1] in PROJECT["optional-dependencies"]


def test_unknown_libraries_and_a_package_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DependencyError, match="no tested versions of 'nothing'"):
        versions.tested("nothing")

    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    versions._ranges.cache_clear()
    try:
        with pytest.raises(DependencyError, match="isn't installed"):
            versions.tested("torch")
    finally:
        versions._ranges.cache_clear()
