"""What holds for every strategy that ships, whatever it computes."""

import ast
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenprune_strategies import plugin

from tokenprune.interface.strategy import Budget, PruningStrategy, places
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import untrained_params
from tokenprune.plugins.matrix import site_of
from tokenprune.testing import check_strategy, fake_tokens
from tokenprune.testing.subject import KEEP, MODEL, WIDTH

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "evoprune": ("evoprune", {}),
    "evoprune-forever": ("evoprune", {"importance_per": "patch", "protect": "forever"}),
    "evoprune-all": ("evoprune", {"partition": "all", "critical_token_ratio": 0.6}),
    "evoprune-keys": ("evoprune", {"metric": "keys", "tau": "auto", "importance": "cls"}),
    "tome": ("tome", {}),
    "fopru": ("fopru", {}),
    "fopru-row": ("fopru", {"strategy": "row", "scores": "logits"}),
    "vistog": ("vistog", {}),
    "covipal": ("covipal_style", {}),
    "covipal-mlp": ("covipal_style", {"variant": "mlp"}),
    "ipcv": ("ipcv", {"neighbours": 3}),
    "fastv": ("fastv", {}),
    "fastv-all": ("fastv", {"query": "all"}),
    "vscan": ("vscan", {}),
    "vscan-floor": ("vscan", {"score": "received", "window": 2, "quota": "floor"}),
    "fastervlm": ("fastervlm", {}),
    "vispruner": ("vispruner", {}),
    "pyramiddrop": ("pyramiddrop", {}),
    "divprune": ("divprune", {}),
    "visionzip": ("visionzip", {}),
    "visionzip-paper": ("visionzip", {"order": "paper", "class_token": True}),
    "dart": ("dart", {"pivots": 2}),
    "dart-states": ("dart", {"measure": "states"}),
    "cdpruner": ("cdpruner", {}),
    "sparsevlm": ("sparsevlm", {}),
    "sparsevlm-paper": ("sparsevlm", {"order": "paper"}),
    "sparsevlm-bare": ("sparsevlm", {"recycle": False}),
    "holov": ("holov", {"chunks": 4}),
    "holov-paper": ("holov", {"chunks": 4, "order": "paper"}),
    "prumerge": ("prumerge", {"neighbours": 3}),
    "prumerge-paper": ("prumerge", {"block": "last", "order": "paper", "plus": False}),
    "random": ("random", {"seed": 3}),
    "uniform": ("uniform", {}),
}


def registered() -> dict[str, type[PruningStrategy[Any]]]:
    found: dict[str, type[PruningStrategy[Any]]] = {}
    plugin.register_strategies(lambda strategy: found.update({strategy.name: strategy}))
    return found


ALL = registered()


def known(case: str) -> tuple[type[PruningStrategy[Any]], dict[str, Any]]:
    name, params = CASES[case]
    return ALL[name], params


# strategies that come later need not be written down above
for _name in ALL.keys() - {name for name, _ in CASES.values()}:
    CASES[_name] = (_name, {})


@pytest.mark.parametrize(("seed", "case"), enumerate(sorted(CASES)))
def test_the_contract(seed: int, case: str) -> None:
    """Each on tokens of its own, which are no other case's."""
    kind, params = known(case)
    report = check_strategy(kind, params, seed=seed)
    report.require()
    assert {row.at for row in report.rows if row.status == "pass"} == {*places(kind)}


@pytest.mark.parametrize(
    "case", ["evoprune-all", "fopru-row", "covipal", "ipcv", "random", "vistog"]
)
def test_one_graph_without_breaks(case: str) -> None:
    kind, params = known(case)
    strategy = kind.from_params(**untrained_params(kind, MODEL, KEEP) | params)
    site = site_of(kind, places(kind)[0])
    wanted = strategy.signals(site)
    given = fake_tokens(grid=(1, 2, KEEP), site=site, signals=wanted, width=WIDTH)

    def step(tokens: Tokens) -> torch.Tensor:
        answer = strategy.reduce(tokens, Budget(tokens.count, KEEP))
        return answer.apply(tokens.hidden, tokens.size)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(given), step(given))


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_describes_itself(name: str) -> None:
    strategy = ALL[name]
    assert strategy.about.summary
    assert strategy.about.paper
    assert strategy.about.licence
    fields = strategy.Params.model_fields
    assert all(field.description for field in fields.values())
    assert strategy.about.ours is not None, "say whose the defaults are"
    assert set(strategy.about.ours) | set(strategy.about.borrowed) <= set(fields)
    assert not set(strategy.about.ours) & set(strategy.about.borrowed)


def test_what_ships_is_registered() -> None:
    wanted = {"evoprune", "fastv", "fopru", "ipcv", "random", "tome", "uniform", "vistog"}
    assert wanted | {"quecc", "covipal_style", "dyvte"} <= set(ALL)


def test_no_strategy_imports_a_model_library_or_an_adapter() -> None:
    root = Path(str(resources.files("tokenprune_strategies")))
    sources = list(root.rglob("*.py"))
    assert len(sources) > 10
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for imported in names:
                top = imported.split(".")[0]
                assert top not in {"transformers", "timm", "tokenprune_adapters"}, source
