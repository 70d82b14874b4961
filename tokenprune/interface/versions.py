"""Which versions of other libraries are tested, as the installed package's metadata says.

The numbers stand in `pyproject.toml` and nowhere else.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib import metadata
from typing import Literal, NamedTuple

from tokenprune.errors import DependencyError
from tokenprune.errors.installing import pip_install

LIBRARIES = ("torch", "transformers", "timm")
"""The libraries whose models and operations tokenprune changes: bounded by minor version."""

_NAME = re.compile(r"[\w.-]+")
_BOUND = re.compile(r"(?P<sign>>=|<)(?P<version>[\d.]+)")
_EXTRA = re.compile(r"extra == ['\"](?P<extra>\w+)['\"]")
_DISTRIBUTIONS = {"PIL": "pillow"}  # by module, where the names differ


class VersionRange(NamedTuple):
    """A range of tested versions.

    Attributes:
        low: the oldest.
        below: the first version that is newer than all tested ones.
    """

    low: str
    below: str

    def __str__(self) -> str:
        """As in `pyproject.toml`."""
        return f">={self.low},<{self.below}"


def tested(name: str) -> VersionRange:
    """The tested versions of a library that tokenprune requires, always or for an extra.

    Raises:
        DependencyError: tokenprune isn't installed, or requires no such library.
    """
    ranges = _ranges()
    if name.lower() not in ranges:
        raise DependencyError(
            f"tokenprune has no tested versions of '{name}'.",
            where="tokenprune's metadata",
            remedy=f"Libraries: {', '.join(sorted(ranges))}.",
        )
    return ranges[name.lower()]


def outside(name: str) -> Literal["older", "newer"] | None:
    """On which side of the tested versions the installed one is; None if inside or not installed.

    A development or local version counts as the release it is numbered for.
    """
    version = installed(name)
    if version is None:
        return None
    span = tested(name)
    if _release(version) < _release(span.low):
        return "older"
    return "newer" if _release(version) >= _release(span.below) else None


@cache
def installed(name: str) -> str | None:
    """The version that is installed, or None; looked up once, since every attaching asks."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def refuse_older(*names: str) -> None:
    """Refuse libraries older than every tested version.

    Args:
        names: default: `LIBRARIES`.

    Raises:
        DependencyError: names the installed and the tested versions.
    """
    for name in names or LIBRARIES:
        if outside(name) == "older":
            span = tested(name)
            raise DependencyError(
                f"this version is older than every tested one ({span}).",
                where=f"{name} {installed(name)}",
                remedy=f"Upgrade: pip install '{name}{span}'.",
            )


class UntestedVersionWarning(UserWarning):
    """A library is newer than every version that the tests passed with."""


@cache
def warn_newer(name: str) -> None:
    """Warn, once in a process, of a library that is newer than every tested version."""
    if outside(name) == "newer":
        warnings.warn(
            f"{name} {installed(name)} is newer than every tested version ({name}{tested(name)}). "
            "`tokenprune verify MODEL --plan PLAN` checks a plan on your model.",
            UntestedVersionWarning,
            stacklevel=2,
        )


def missing(error: ModuleNotFoundError) -> DependencyError | None:
    """What to install, where the module that wasn't found belongs to one of the extras."""
    module = error.name or ""  # with a dot in it, the library is there and another one
    library = _DISTRIBUTIONS.get(module, module.lower())
    for requirement in _requirements():
        match = _EXTRA.search(requirement)
        if match and _named(requirement) == library:
            return DependencyError(
                f"{library} isn't installed.",
                where=f"import {module}",
                remedy=f"Install it: {pip_install(match['extra'])}.",
            )
    return None


@cache
def _ranges() -> dict[str, VersionRange]:
    ranges: dict[str, VersionRange] = {}
    for requirement in _requirements():
        bounds = dict(_BOUND.findall(requirement.partition(";")[0]))
        if bounds.keys() >= {">=", "<"}:
            ranges[_named(requirement)] = VersionRange(bounds[">="], bounds["<"])
    return ranges


def _requirements() -> list[str]:
    try:
        return metadata.requires("tokenprune") or []
    except metadata.PackageNotFoundError as error:
        raise DependencyError(
            "tokenprune isn't installed, and its metadata holds the tested versions.",
            remedy=f"Install it: {pip_install()}.",
        ) from error


def _named(requirement: str) -> str:
    match = _NAME.match(requirement)
    return match[0].lower() if match else ""


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros, so that 5.17 and 5.17.0 are equal."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
