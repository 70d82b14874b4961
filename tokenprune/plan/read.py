"""Reading YAML files and the plans that they extend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenprune.errors import PlanError
from tokenprune.errors.files import read_text, reason
from tokenprune.errors.names import nearest
from tokenprune.errors.words import kind_of
from tokenprune.plan.paths import anchored

#: Most bytes of a plan or study (ours).
PLAN_BYTES = 2 * 2**20

#: Most levels that mappings and lists of a plan may lie in one another (ours).
LEVELS = 50

#: Most keys and values of a plan or study (ours).
VALUES = 200_000

#: Endings of files that are suggested for a missing one, and how alike their names are (ours).
ENDINGS, CLOSE = (".yaml", ".yml", ".json"), 0.7

#: Integers have at most so many bits: those of seeds are the longest.
BITS = 128

#: Keys at the top that only one of the two kinds of files has.
OF_PLANS = frozenset({"stages", "extends"})
OF_STUDIES = frozenset({"out", "models", "tasks", "plans"})

_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, refusing a key that stands twice in one mapping.

    It resolves merge keys (`<<`) itself, because PyYAML 6.0.4 resolves nested ones and lists of
    them differently from the releases before.
    """

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:  # as written; merge keys are resolved later
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key.value}' stands here twice", key.start_mark
                    )
                seen.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace `<<` by what it names: own keys win, then those of the mapping named first."""
        # empty meanwhile, so that a mapping that merges itself adds nothing
        written, node.value = node.value, []
        found: dict[object, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in written:
            for source in _sources(value) if key.tag == _MERGE else ():
                self.flatten_mapping(source)
                for pair in source.value:
                    found.setdefault(_name(pair[0]), pair)
        found.update((_name(key), (key, value)) for key, value in written if key.tag != _MERGE)
        node.value = list(found.values())
        super().flatten_mapping(node)


def _sources(node: yaml.Node) -> list[yaml.MappingNode]:
    """The mappings that a merge key names."""
    named = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for source in named:
        if not isinstance(source, yaml.MappingNode):
            found = "list" if isinstance(source, yaml.SequenceNode) else "value"
            raise yaml.constructor.ConstructorError(
                None, None, f"'<<' merges mappings, this is a {found}", source.start_mark
            )
    return list(named)


def _name(key: yaml.Node) -> object:
    """What makes two keys the same one; a key that is a collection is only itself."""
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


def parse(text: str, where: str) -> Any:
    """Parse YAML.

    Raises:
        PlanError: malformed, with line and column.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}, line {mark.line + 1}, column {mark.column + 1}" if mark else where
        said = "; ".join(part for part in (error.context, error.problem) if part)
        raise PlanError(f"malformed YAML: {said}.", where=place) from error
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError) as error:
        # the latter from values that only look like dates or numbers
        raise PlanError(f"malformed YAML: {str(error)[:400]}.", where=where) from error
    _check(value, where)
    return value


def _check(value: Any, where: str) -> None:
    """Refuse what no plan needs and what would break or block those that read it on.

    Few aliases make a value that holds itself, or more values than any memory holds. Values are
    counted as often as they are named.
    """
    left, count = [(value, 0)], 0
    while left:
        one, level = left.pop()
        count += 1
        if level > LEVELS or count > VALUES:
            most = f"{LEVELS} levels" if level > LEVELS else f"{VALUES:,} values"
            raise PlanError(f"there are more than {most}, aliases included.", where=where)
        if isinstance(one, int) and one.bit_length() > BITS:
            raise PlanError(f"a number has more than {BITS} bits.", where=where)
        if isinstance(one, Mapping):
            left += [(part, level + 1) for pair in one.items() for part in pair]
        elif isinstance(one, list):
            left += [(part, level + 1) for part in one]


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping with string keys.

    Raises:
        PlanError: it isn't there, can't be read or holds something else.
    """
    try:
        text = read_text(path, PLAN_BYTES)
    except FileNotFoundError as error:
        raise PlanError("there is no such file.", where=str(path), remedy=_hint(path)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"the file can't be read ({reason(error)}).", where=str(path)) from error
    return as_mapping(parse(text, str(path)), str(path))


def as_mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping with string keys.

    Raises:
        PlanError: it is anything else.
    """
    if not isinstance(value, Mapping):
        raise PlanError(
            f"a plan is a mapping, this is {kind_of(value)}.",
            where=where,
            remedy="Begin with 'schema_version: 1' and 'stages:'.",
        )
    for key in value:
        if not isinstance(key, str):
            raise PlanError(f"keys are words, this is {key!r}.", where=where)
    return dict(value)


def is_study(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a study file's, which has plans and is none."""
    return not OF_PLANS & data.keys() and bool(OF_STUDIES & data.keys())


def is_stage(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a single stage, which a plan holds in a list."""
    return "strategy" in data and not OF_PLANS & data.keys()


def is_plan(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is a plan file's, and no study's."""
    return not OF_STUDIES & data.keys() and bool(OF_PLANS & data.keys())


def _hint(path: Path) -> str:
    folder = path.parent
    files = [p for p in folder.iterdir() if p.is_file()] if folder.is_dir() else []
    names = {p.stem: p.name for p in files if p.suffix in ENDINGS}
    near = nearest(path.stem, names, CLOSE)
    return f"Did you mean '{folder / names[near]}'?" if near else ""


def _resolved(path: Path, name: str, where: str) -> Path:
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, or links in a circle
        raise PlanError(
            f"no file can be called {name[:200]!r}.", where=f"{where}: extends"
        ) from error


def merged(base: Any, top: Any) -> Any:
    """`top` over `base`: mappings are merged key by key, anything else is replaced."""
    if not (isinstance(base, Mapping) and isinstance(top, Mapping)):
        return top
    both = {key: merged(base[key], value) if key in base else value for key, value in top.items()}
    return {**base, **both}


def resolve_extends(
    data: dict[str, Any], folder: Path, where: str, chain: tuple[Path, ...] = ()
) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Lay a mapping over the file that its `extends` names, and so on.

    Args:
        data: the mapping; `extends` may be among its keys.
        folder: what a relative `extends` is relative to.
        where: place to name in errors.
        chain: resolved files that led here.

    Returns:
        The merged mapping without `extends`, and all files that went into it.

    Raises:
        PlanError: a file isn't there, or extends itself through others.
    """
    data = dict(data)
    if "extends" not in data:
        return data, chain
    name = data.pop("extends")
    if not isinstance(name, str) or not name:
        raise PlanError(f"'extends' names one file, this is {name!r}.", where=f"{where}: extends")
    path = _resolved(folder / name, name, where)
    if path in chain:
        circle = " -> ".join(p.name for p in (*chain[chain.index(path) :], path))
        raise PlanError(f"plans extend each other in a circle: {circle}.", where=where)
    try:
        found = anchored(read_mapping(path), path.parent)
    except PlanError as error:
        error.where = f"{where}: extends: {error.where}"
        raise
    base, files = resolve_extends(found, path.parent, str(path), (*chain, path))
    result: dict[str, Any] = merged(base, data)
    return result, files
