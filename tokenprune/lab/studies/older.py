"""Records of cells under other code: such a record doesn't count, and the user is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenprune.lab.measure.code import digest, package_digest
from tokenprune.lab.studies.store import Store

#: What is the matter with such records, for people.
OLDER = "recorded under another version of tokenprune or of a plugin"


def older_keys(store: Store, identities: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keys of those cells without a good record that have one under other code.

    Args:
        store: the study's records.
        identities: of the study's cells that have no good record.
    """
    wanted = {digest(_without_code(identity)): digest(identity) for identity in identities}
    if not wanted:
        return set()
    found = (record for record in store.others(wanted.values()) if record.status == "done")
    cells = {digest(_without_code(record.identity)) for record in found}
    return {key for cell, key in wanted.items() if cell in cells}


def is_older(identity: Mapping[str, Any]) -> bool:
    """Whether a record says that other code was measured than that which runs now.

    Packages that aren't loaded can't be compared.

    Args:
        identity: of the record.
    """
    said = {**identity.get("code", {}), **identity.get("methods", {}).get("code", {})}
    now = {package: package_digest(package) for package in said}
    return any(now[package] not in ("", found) for package, found in said.items())


def _without_code(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a cell the cell it is, but for the version of the code."""
    methods = {name: value for name, value in identity.get("methods", {}).items() if name != "code"}
    environment = dict(identity.get("environment", {}))
    packages = environment.get("packages", {})
    environment["packages"] = {
        name: version for name, version in packages.items() if name != "tokenprune"
    }
    kept = {name: value for name, value in identity.items() if name != "code"}
    return {**kept, "methods": methods, "environment": environment}
