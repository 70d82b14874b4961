"""From a study's records to one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from tokenprune.errors import BackendUnavailableError
from tokenprune.errors.installing import pip_install
from tokenprune.errors.visible import visible
from tokenprune.lab.judge.breaking import parts_of
from tokenprune.lab.judge.columns import P_VALUE, STAGES
from tokenprune.lab.report.families import families
from tokenprune.lab.report.folder import Results
from tokenprune.lab.report.overlays import PageImages
from tokenprune.lab.studies.store import Record
from tokenprune.lab.studies.summary import Group


def html(results: Results, groups: Sequence[Group]) -> str:
    """The page as text; everything that came from data is escaped, control characters too.

    Args:
        results: what the folder holds.
        groups: the same, judged.

    Raises:
        BackendUnavailableError: Jinja2 isn't installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup, escape

        from tokenprune.lab.report.views import group_view
    except ImportError as error:
        raise BackendUnavailableError(
            "the report needs Jinja2.", remedy=f"Install it: {pip_install('report')}."
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["p_value"] = P_VALUE.shown
    environment.filters["breakable"] = lambda name: Markup("<wbr>").join(
        map(escape, parts_of(name))
    )
    source = resources.files("tokenprune.lab.report") / "templates" / "report.html"
    template = environment.from_string(source.read_text(encoding="utf-8"))
    pictures, known = PageImages(), families(groups)
    views = [group_view(group, known, pictures) for group in groups]
    page = template.render(
        results=results,
        environments=environments(results.records),
        groups=views,
        pictures=Markup(pictures.definitions()),
        stages=STAGES,
    )
    return visible(page)


def environments(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Machines and versions that the records were measured with, each once."""
    found: list[dict[str, Any]] = []
    for record in records:
        environment = dict(record.identity["environment"])
        packages = environment.get("packages", {})
        environment["packages"] = ", ".join(f"{k} {v}" for k, v in packages.items())
        if environment not in found:
            found.append(environment)
    return found
