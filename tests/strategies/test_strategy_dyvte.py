import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenprune_strategies.dyvte import DyVTE, DyVTEParams, ExitGates, text_state
from torch import Tensor

from tests.strategies.cases import make_tokens
from tests.strategies.loops import Vector, chain, mean
from tokenprune.errors import BudgetError, CheckpointError, LayerError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape

D, L, N = 6, 5, 4
ALL = Budget(N, N)


def fresh(seed: int = 0, **params: Any) -> DyVTE:
    strategy = DyVTE.from_params(**{"init_seed": seed, "dim": D, "layers": L, "width": 3, **params})
    assert isinstance(strategy, DyVTE)
    return strategy


def prompt(
    before: tuple[int, ...] = (2, 0, 3), behind: tuple[int, ...] = (3, 5, 2), *, layer: int = 1,
    seed: int = 0,
) -> Tokens:  # fmt: skip
    """Prompts with so many text tokens on each side of the image, at the input of a layer."""
    torch.manual_seed(seed)
    lengths = [a + b for a, b in zip(before, behind, strict=True)]
    place = torch.full((len(lengths), max(lengths)), -1)
    for row, (first, length) in enumerate(zip(before, lengths, strict=True)):
        place[row, :first], place[row, first:length] = 0, 1
    states = torch.randn(*place.shape, D) * (place >= 0)[..., None]
    return with_text(states, place, layer)


def with_text(states: Tensor, place: Tensor, layer: int) -> Tokens:
    signals = {Signal.TEXT_STATES: states, Signal.TEXT_PLACE: place}
    hidden = torch.zeros(states.shape[0], N, D, dtype=states.dtype)
    return make_tokens(hidden, site=Site("decoder", layer, L), signals=signals)


def texts(tokens: Tokens) -> tuple[Tensor, Tensor]:
    return tokens.signal(Signal.TEXT_STATES), tokens.signal(Signal.TEXT_PLACE)


def kept(strategy: DyVTE, tokens: Tokens) -> list[bool]:
    """Whether a sample's tokens stay; all of them or none do."""
    answer = strategy.reduce(tokens, ALL)
    if not answer.changes:
        return [True] * tokens.hidden.shape[0]
    assert answer.mask is not None
    assert answer.mask.shape == (tokens.hidden.shape[0], N)
    assert torch.equal(answer.mask.all(dim=1), answer.mask.any(dim=1))
    rows: list[bool] = answer.mask.any(dim=1).tolist()
    return rows


def oracle(states: list[Vector], place: list[int]) -> tuple[Vector, Vector] | None:
    """Mean of the text behind the image without its last token, and that token."""
    text = [state for state, where in zip(states, place, strict=True) if where == 1]
    if not text:
        return None
    return (mean(text[:-1]) if len(text) > 1 else text[-1]), text[-1]


def exits(gates: ExitGates, layer: int, read: tuple[Vector, Vector] | None) -> bool:
    """z = W2 gelu(W1 [mean ; last]); exit iff z[1] > z[0]."""
    if read is None:
        return False
    stay, leave = chain(gates.gates[layer], read[0] + read[1])
    return leave > stay


def test_the_text_state_against_loops() -> None:
    tokens = prompt((2, 0, 3, 4, 1, 0), (3, 5, 2, 1, 0, 0))
    states, place = texts(tokens)
    found = text_state(states, place)
    for row in range(6):
        wanted = oracle(states[row].tolist(), place[row].tolist())
        assert found.present[row].item() == (wanted is not None)
        if wanted is not None:
            torch.testing.assert_close(found.mean[row], torch.tensor(wanted[0]))
            torch.testing.assert_close(found.last[row], torch.tensor(wanted[1]))


def test_one_text_token_is_its_own_mean_and_none_is_finite() -> None:
    states, place = texts(prompt((0, 2), (1, 0)))
    found = text_state(states, place)
    assert torch.equal(found.mean[0], found.last[0])
    assert torch.equal(found.last[0], states[0, 0])
    assert torch.isfinite(found.mean).all()
    empty = text_state(torch.zeros(2, 0, D), torch.zeros(2, 0, dtype=torch.long))
    assert empty.mean.eq(0).all()
    assert not empty.present.any()


def test_decisions_against_loops_with_a_gate_for_every_layer() -> None:
    seen = set()
    for seed in range(8):
        strategy = fresh(seed)
        for layer in range(1, L):  # in front of layer l + 1 stands the gate behind layer l
            tokens = prompt(layer=layer, seed=seed)
            states, place = texts(tokens)
            wanted = [
                not exits(strategy.modules(), layer - 1, oracle(s, p))
                for s, p in zip(states.tolist(), place.tolist(), strict=True)
            ]
            assert kept(strategy, tokens) == wanted
            seen |= {(layer, stays) for stays in wanted}
    assert len(seen) == 2 * (L - 1)  # every gate said both


def test_samples_of_a_batch_exit_on_their_own() -> None:
    strategy = fresh()
    tokens = prompt((0,) * 12, (2, 3, 4) * 4)
    together = kept(strategy, tokens)
    assert len(set(together)) == 2
    states, place = texts(tokens)
    for row, stays in enumerate(together):
        length = int((place[row] >= 0).sum())
        alone = with_text(states[row : row + 1, :length], place[row : row + 1, :length], 1)
        assert kept(strategy, alone) == [stays]


@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf])
def test_padding_and_text_before_the_image_change_nothing(garbage: float) -> None:
    tokens = prompt()
    states, place = texts(tokens)
    dirty = torch.where((place != 1)[..., None], torch.tensor(garbage), states)
    assert not torch.equal(dirty, states)
    clean, found = text_state(states, place), text_state(dirty, place)
    assert torch.equal(found.mean, clean.mean)
    assert torch.equal(found.last, clean.last)
    assert kept(fresh(), with_text(dirty, place, 1)) == kept(fresh(), tokens)


def test_threshold_is_a_probability_of_the_softmax() -> None:
    tokens = prompt((0,) * 20, (3,) * 20)
    strategy = fresh()
    logits = strategy.modules()(0, text_state(*texts(tokens)))
    share = logits.softmax(dim=1)[:, 1]
    assert kept(strategy, tokens) == (share <= 0.5).tolist()
    for threshold in (0.2, 0.4, 0.6):
        assert kept(fresh(threshold=threshold), tokens) == (share <= threshold).tolist()
    assert kept(fresh(threshold=1.0), tokens) == [True] * 20
    assert kept(fresh(threshold=0.0), tokens) == [False] * 20


def test_equal_logits_stay() -> None:
    strategy = fresh()
    with torch.no_grad():
        strategy.modules().gates[0][2].weight.zero_()
    assert kept(strategy, prompt()) == [True] * 3


def test_no_text_behind_the_image_is_no_exit_by_a_gate() -> None:
    for threshold in (0.0, 0.5):
        strategy = fresh(threshold=threshold)
        assert kept(strategy, prompt((3, 0), (0, 2)))[0]
    assert kept(fresh(threshold=0.0), prompt((3, 0), (0, 2))) == [True, False]
    assert kept(fresh(max_layer=0), prompt((3, 0), (0, 2))) == [False, False]


def test_bounds_of_the_exit() -> None:
    always = fresh(threshold=0.0, min_layer=2)
    assert [kept(always, prompt(layer=at))[0] for at in range(L)] == [True] * 3 + [False] * 2
    never = fresh(threshold=1.0, max_layer=1)
    assert [kept(never, prompt(layer=at))[0] for at in range(L)] == [True] * 2 + [False] * 3
    # nothing ran in front of layer 0
    assert kept(fresh(threshold=0.0), prompt(layer=0)) == [True] * 3


def test_a_fixed_exit_needs_neither_weights_nor_signals() -> None:
    strategy = DyVTE(DyVTEParams(exit_layer=2))
    assert strategy.signals(Site("decoder", 3, L)) == ()
    assert list(strategy.trainable_parameters()) == []
    strategy.check(Site("decoder", 1, 40), ALL, (1, 2, 2))  # any LLM
    found = []
    for layer in range(L):
        tokens = make_tokens(torch.zeros(2, N, D), site=Site("decoder", layer, L))
        found.append(kept(strategy, tokens))
    assert found == [[True, True]] * 3 + [[False, False]] * 2


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_states(kind: torch.dtype) -> None:
    states, place = texts(prompt())
    # sums of the largest values don't fit float16
    half = (states.sign() * 6e4).to(kind)
    found = text_state(half, place)
    assert torch.isfinite(found.mean).all()
    assert torch.isfinite(fresh().modules()(0, found)).all()
    whole = with_text(half.float(), place, 1)
    assert kept(fresh(), with_text(half, place, 1)) == kept(fresh(), whole)


def test_a_budget_is_refused() -> None:
    strategy = fresh()
    strategy.check(Site("decoder", 1, L), ALL, (1, 2, 2))
    with pytest.raises(BudgetError, match="Leave 'keep' out") as caught:
        strategy.check(Site("decoder", 1, L), Budget(N, 2), (1, 2, 2))
    assert caught.value.nearest == N


def test_an_llm_of_another_depth_or_width_is_refused() -> None:
    with pytest.raises(LayerError, match="of 5 layers, and this one has 7"):
        fresh().check(Site("decoder", 1, 7), ALL, (1, 2, 2))
    with pytest.raises(CheckpointError, match="width 8, and this model's have 6"):
        fresh(dim=8).reduce(prompt(), ALL)
    for key in ("min_layer", "max_layer", "exit_layer"):
        params: dict[str, Any] = {key: L - 1}
        fixed = key == "exit_layer"
        strategy = DyVTE(DyVTEParams(exit_layer=L - 1)) if fixed else fresh(**params)
        with pytest.raises(LayerError, match=f"'{key}' is 4"):
            strategy.check(Site("decoder", 1, L), ALL, (1, 2, 2))


def test_gates_start_xavier_uniform_without_biases() -> None:
    gates = fresh(width=50).modules()
    assert len(gates.gates) == L - 1
    for name, weight in gates.named_parameters():
        assert name.endswith("weight")
        bound = math.sqrt(6 / sum(weight.shape))
        assert weight.abs().max() <= bound
        assert weight.abs().max() > 0.9 * bound
        assert abs(weight.std().item() - bound / math.sqrt(3)) < 0.15 * bound


@pytest.mark.parametrize(
    ("dim", "layers", "width", "millions"),
    [(4096, 32, 2048, 537), (5120, 40, 2048, 839), (4096, 32, 256, 67), (5120, 40, 256, 105)],
)
def test_the_sizes_the_page_gives(dim: int, layers: int, width: int, millions: int) -> None:
    with torch.device("meta"):  # the page counts a gate for the last layer too
        gates = ExitGates(dim, layers, width)
    assert round(sum(p.numel() for p in gates.parameters()) / 1e6) == millions


def test_gates_learn_and_only_the_one_asked() -> None:
    strategy = fresh(width=16).train()
    optimiser = torch.optim.Adam(strategy.trainable_parameters(), lr=1e-2)
    state = text_state(*texts(prompt((0,) * 32, (3,) * 32)))
    wanted = (state.mean[:, 0] > state.last[:, 1]).long()
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(strategy.modules()(2, state), wanted)
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]
    for number, gate in enumerate(strategy.modules().gates):
        assert all((p.grad is not None) == (number == 2) for p in gate.parameters())


def test_an_untrained_start_fits_the_model() -> None:
    for wide, width in ((128, 128), (4096, 256)):
        params = DyVTE.untrained(ModelShape(12, 11, (1, 14, 14), wide, 6), None)
        assert (params["dim"], params["layers"], params["width"]) == (wide, 6, width)
        if wide == 128:
            strategy = DyVTE.from_params(**params)
            strategy.check(Site("decoder", 5, 6), ALL, (1, 2, 2))


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path: Path, half: bool) -> None:
    strategy = fresh(3)
    path = tmp_path / "dyvte.safetensors"
    strategy.save_checkpoint(path, {"model": "tiny"}, half=half)
    loaded = DyVTE(DyVTEParams(checkpoint=path, threshold=0.7))
    assert (loaded.shape.dim, loaded.shape.layers, loaded.shape.width) == (D, L, 3)
    assert loaded.params.threshold == 0.7
    state = text_state(*texts(prompt()))
    near = 1e-2 if half else 0.0
    for layer in range(L - 1):
        mine, theirs = loaded.modules()(layer, state), strategy.modules()(layer, state)
        torch.testing.assert_close(mine, theirs, atol=near, rtol=near)
    with pytest.raises(CheckpointError, match="it has layers 5"):
        DyVTE(DyVTEParams(checkpoint=path, layers=6))


def test_bad_parameters() -> None:
    with pytest.raises(ValidationError, match="'dim' and 'layers'"):
        DyVTEParams(init_seed=0)
    with pytest.raises(ValidationError, match="'exit_layer' goes without"):
        DyVTEParams(exit_layer=2, checkpoint=Path("x"))
    with pytest.raises(ValidationError, match="before 'min_layer'"):
        DyVTEParams(min_layer=3, max_layer=2)
    with pytest.raises(CheckpointError, match="trained weights"):
        DyVTE(DyVTEParams())
