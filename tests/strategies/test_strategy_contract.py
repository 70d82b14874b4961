"""What holds for every strategy that ships, whatever it computes."""

import ast
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenprune_strategies import plugin
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.strategies.cases import SITES, all_signals, budget, make_tokens
from tokenprune.interface.placement import Encoder
from tokenprune.interface.reduction import Reduction
from tokenprune.interface.strategy import PruningStrategy
from tokenprune.interface.tokens import Site, Tokens

GROUPS = 4
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "evoprune": ("evoprune", {}),
    "evoprune-all": ("evoprune", {"partition": "all", "critical_token_ratio": 0.6}),
    "evoprune-keys": ("evoprune", {"metric": "keys", "tau": "auto", "importance": "cls"}),
    "tome": ("tome", {}),
    "fopru": ("fopru", {}),
    "fopru-row": ("fopru", {"strategy": "row", "scores": "logits"}),
    "vistog": ("vistog", {"init_seed": 0, "groups": GROUPS, "dim": 8}),
    "covipal": ("covipal_style", {"init_seed": 0, "dim": 8, "width": 8}),
    "covipal-mlp": ("covipal_style", {"init_seed": 0, "dim": 8, "width": 8, "variant": "mlp"}),
    "ipcv": ("ipcv", {"neighbours": 3}),
    "fastv": ("fastv", {}),
    "vscan": ("vscan", {}),
    "vscan-floor": ("vscan", {"score": "received", "window": 2, "quota": "floor"}),
    "random": ("random", {"seed": 3}),
    "uniform": ("uniform", {}),
}


def registered() -> dict[str, type[PruningStrategy[Any]]]:
    found: dict[str, type[PruningStrategy[Any]]] = {}
    plugin.register_strategies(lambda strategy: found.update({strategy.name: strategy}))
    return found


ALL = registered()


def build(case: str) -> PruningStrategy[Any]:
    name, params = CASES[case]
    return ALL[name].from_params(**params)


def site_of(strategy: PruningStrategy[Any]) -> Site:
    return SITES[strategy.stages[0].at]


def picture(strategy: PruningStrategy[Any], count: int, batch: int, seed: int = 0) -> Tokens:
    torch.manual_seed(seed)
    hidden = torch.randn(batch, count, 8)
    made = all_signals(hidden, GROUPS)
    asked = {  # another block's signal is the other way round
        signal: made[signal] if signal.block is None else made[signal.kind].flip(1)
        for signal in strategy.signals(site_of(strategy))
    }
    size = torch.randint(1, 4, (batch, count)).float()
    return make_tokens(
        hidden, site=site_of(strategy), signals=asked, size=size, grid=(1, 3, (count + 2) // 3)
    )


def sample(tokens: Tokens, number: int) -> Tokens:
    pick = slice(number, number + 1)
    from dataclasses import replace

    return replace(
        tokens,
        hidden=tokens.hidden[pick],
        size=tokens.size[pick],
        index=tokens.index[pick],
        signals={name: value[pick] for name, value in tokens.signals.items()},
    )


def feasible(strategy: PruningStrategy[Any], count: int) -> st.SearchStrategy[int]:
    if strategy.name == "vistog":
        return st.just(GROUPS)
    halves = any(isinstance(own, Encoder) and own.halves for own in strategy.stages)
    return st.integers(count - count // 2 if halves else 1, count)


def same(a: Reduction, b: Reduction) -> None:
    assert a.changes == b.changes
    for name in ("anchor", "slot"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None and two is None) or torch.equal(one, two)


@pytest.mark.parametrize("case", CASES)
@given(
    count=st.integers(GROUPS, 18), batch=st.integers(1, 3), seed=st.integers(0, 99), data=st.data()
)
@settings(deadline=None, max_examples=12)
def test_exact_count_and_a_batch_is_its_samples(
    case: str, count: int, batch: int, seed: int, data: st.DataObject
) -> None:
    strategy = build(case)
    keep = data.draw(feasible(strategy, count))
    tokens = picture(strategy, count, batch, seed)
    answer = strategy.reduce(tokens, budget(tokens, keep))
    merged = answer.apply(tokens.hidden, tokens.size)
    assert merged.shape == (batch, keep, 8)
    assert torch.isfinite(merged).all()
    same(answer, strategy.reduce(tokens, budget(tokens, keep)))
    if answer.anchor is not None:
        assert (answer.anchor.diff(dim=1) > 0).all()
    for number in range(batch):
        alone = strategy.reduce(sample(tokens, number), budget(tokens, keep))
        if answer.changes:
            same(answer.row(number), alone)


@pytest.mark.parametrize("case", [case for case in CASES if case != "vistog"])
def test_keeping_all_is_bit_exact(case: str) -> None:
    strategy = build(case)
    tokens = picture(strategy, 12, 2)
    answer = strategy.reduce(tokens, budget(tokens, 12))
    assert torch.equal(answer.apply(tokens.hidden, tokens.size), tokens.hidden)
    assert torch.equal(answer.sizes(tokens.size), tokens.size)


@pytest.mark.parametrize("case", CASES)
def test_shapes_come_from_the_budget_alone(case: str) -> None:
    # fake tensors hold no values: `.item()`, a branch on a value or a data-dependent shape raises
    strategy = build(case)
    tokens = picture(strategy, 12, 2)
    keep = GROUPS if case == "vistog" else 7
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = make_tokens(
            mode.from_tensor(tokens.hidden),
            site=tokens.site,
            size=mode.from_tensor(tokens.size),
            index=mode.from_tensor(tokens.index.contiguous()),
            grid=tokens.grid,
        )
        signals = {name: mode.from_tensor(value) for name, value in tokens.signals.items()}
        object.__setattr__(fake, "signals", signals)
        answer = strategy.reduce(fake, budget(fake, keep))
        assert answer.apply(fake.hidden, fake.size).shape == (2, keep, 8)
        if answer.reconstruction is not None:
            full = answer.reconstruction.full(answer.gather(fake.hidden))
            assert full.shape == fake.hidden.shape


@pytest.mark.parametrize(
    "case", ["evoprune-all", "fopru-row", "covipal", "ipcv", "random", "vistog"]
)
def test_one_graph_without_breaks(case: str) -> None:
    strategy = build(case)
    tokens = picture(strategy, 12, 2)
    keep = GROUPS if case == "vistog" else 7

    def step(tokens: Tokens) -> torch.Tensor:
        answer = strategy.reduce(tokens, budget(tokens, keep))
        return answer.apply(tokens.hidden, tokens.size)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), step(tokens))


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_describes_itself(name: str) -> None:
    strategy = ALL[name]
    assert strategy.about.summary
    assert strategy.about.paper
    assert strategy.about.licence
    fields = strategy.Params.model_fields
    assert all(field.description for field in fields.values())
    assert strategy.about.ours is not None, "say whose the defaults are"
    assert set(strategy.about.ours) <= set(fields)


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
