import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenprune_strategies.covipal import (
    ContextScorer,
    CoViPALParams,
    CoViPALStyle,
    MeanScorer,
    PruningModule,
)
from torch import Tensor

from tests.strategies.cases import budget, make_tokens
from tests.strategies.loops import Vector, add, attend, chain, linear, mean, norm, stir
from tokenprune.errors import CheckpointError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape

D, W, HEADS = 6, 8, 2
SITE = Site("decoder", 0, 6)
VARIANTS = ["transformer", "mlp"]


def fresh(variant: str = "transformer", seed: int = 0, **params: Any) -> CoViPALStyle:
    shape = {"dim": D, "width": W, "heads": HEADS, "variant": variant, **params}
    strategy = CoViPALStyle.from_params(init_seed=seed, **shape)
    assert isinstance(strategy, CoViPALStyle)
    torch.manual_seed(seed)
    stir(strategy.modules())
    return strategy


def prompt(
    lengths: tuple[int, ...] = (5, 3), count: int = 7, seed: int = 0, padded: int | None = None
) -> Tokens:
    """Prompts with so many text tokens, two of them before the image."""
    torch.manual_seed(seed)
    longest = max(lengths) if padded is None else padded
    text, place = torch.zeros(len(lengths), longest, D), torch.full((len(lengths), longest), -1)
    for row, length in enumerate(lengths):
        text[row, :length] = torch.randn(length, D)
        place[row, :length] = (torch.arange(length) >= 2).long()
    hidden = torch.randn(len(lengths), count, D)
    return with_text(hidden, text, place)


def with_text(hidden: Tensor, text: Tensor, place: Tensor) -> Tokens:
    signals = {Signal.TEXT_STATES: text, Signal.TEXT_PLACE: place}
    return make_tokens(hidden, site=SITE, signals=signals)


def words(tokens: Tokens, sample: int) -> list[Vector]:
    place = tokens.signal(Signal.TEXT_PLACE)[sample].tolist()
    states = tokens.signal(Signal.TEXT_STATES)[sample].tolist()
    return [state for state, where in zip(states, place, strict=True) if where != -1]


def oracle(module: PruningModule, visual: list[Vector], text: list[Vector]) -> Vector:
    """Scores of one image, token by token and head by head."""
    if isinstance(module, MeanScorer):
        about = mean(text) if text else [0.0] * D
        return [chain(module.score, token + about)[0] for token in visual]
    assert isinstance(module, ContextScorer)
    image, said = module.kinds.tolist()
    states = [add(linear(module.enter, token), image) for token in visual]
    states += [add(linear(module.enter, token), said) for token in text]
    for layer in module.layers:
        parts = [linear(layer.qkv, norm(layer.norm_attention, state)) for state in states]
        keys, values = [p[W : 2 * W] for p in parts], [p[2 * W :] for p in parts]
        read = [attend(part[:W], keys, values, HEADS) for part in parts]
        states = [add(s, linear(layer.join, r)) for s, r in zip(states, read, strict=True)]
        states = [add(s, chain(layer.feed, norm(layer.norm_feed, s))) for s in states]
    return [linear(module.out, norm(module.norm, state))[0] for state in states[: len(visual)]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_against_loops(variant: str) -> None:
    for seed in range(4):
        strategy, tokens = fresh(variant, seed), prompt(seed=seed)
        score = strategy.score(tokens)
        for sample in range(2):
            text = words(tokens, sample)
            wanted = oracle(strategy.modules(), tokens.hidden[sample].tolist(), text)
            torch.testing.assert_close(score[sample], torch.tensor(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("padded", [0, 4])
def test_without_text_the_image_alone_counts(variant: str, padded: int) -> None:
    strategy, tokens = fresh(variant), prompt((0, 0), padded=padded)
    score = strategy.score(tokens)
    for sample in range(2):
        wanted = oracle(strategy.modules(), tokens.hidden[sample].tolist(), [])
        torch.testing.assert_close(score[sample], torch.tensor(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("garbage", [1e30, math.nan, math.inf])
def test_what_padding_holds_changes_nothing(variant: str, garbage: float) -> None:
    strategy, tokens = fresh(variant), prompt()
    text, place = (tokens.signal(s) for s in (Signal.TEXT_STATES, Signal.TEXT_PLACE))
    dirty = torch.where((place < 0)[..., None], torch.tensor(garbage), text)
    assert not torch.equal(dirty, text)
    score = strategy.score(with_text(tokens.hidden, dirty, place))
    assert torch.equal(score, strategy.score(tokens))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_its_samples(variant: str) -> None:
    strategy, tokens = fresh(variant), prompt((5, 2, 4))
    together = strategy.reduce(tokens, budget(tokens, 3))
    assert together.anchor is not None
    for sample, length in enumerate((5, 2, 4)):
        pick = slice(sample, sample + 1)
        text, place = (tokens.signal(s)[pick] for s in (Signal.TEXT_STATES, Signal.TEXT_PLACE))
        alone = with_text(tokens.hidden[pick], text[:, :length], place[:, :length])
        answer = strategy.reduce(alone, budget(alone, 3))
        assert answer.anchor is not None
        assert torch.equal(answer.anchor[0], together.anchor[sample])


@pytest.mark.parametrize("variant", VARIANTS)
def test_all_of_the_prompt_is_read_and_none_of_it_has_a_position(variant: str) -> None:
    strategy, tokens = fresh(variant), prompt((5,))
    score = strategy.score(tokens)
    text, place = (tokens.signal(s) for s in (Signal.TEXT_STATES, Signal.TEXT_PLACE))
    for token in (0, 4):  # before and behind the image
        other = text.clone()
        other[0, token] += 1
        assert not torch.allclose(strategy.score(with_text(tokens.hidden, other, place)), score)
    order = torch.randperm(7)
    moved = strategy.score(with_text(tokens.hidden[:, order], text.flip(1), place.flip(1)))
    torch.testing.assert_close(moved, score[:, order])


@pytest.mark.parametrize("keep", [1, 4, 7])
def test_the_best_stay_in_raster_order(keep: int) -> None:
    strategy, tokens = fresh(), prompt()
    answer = strategy.reduce(tokens, budget(tokens, keep))
    assert answer.anchor is not None
    for sample in range(2):
        score = strategy.score(tokens)[sample].tolist()
        best = sorted(range(7), key=lambda n: (-score[n], n))[:keep]
        assert answer.anchor[sample].tolist() == sorted(best)
    if keep == 7:
        assert torch.equal(answer.apply(tokens.hidden, tokens.size), tokens.hidden)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_states(variant: str, kind: torch.dtype) -> None:
    strategy, tokens = fresh(variant), prompt()
    # sums and squares of the largest values don't fit the type
    text = (tokens.signal(Signal.TEXT_STATES).sign() * 6e4).to(kind)
    hidden = (tokens.hidden.sign() * 6e4).to(kind)
    half = with_text(hidden, text, tokens.signal(Signal.TEXT_PLACE))
    assert torch.isfinite(strategy.score(half)).all()
    made = strategy.reduce(half, budget(half, 3)).apply(half.hidden, half.size)
    assert made.dtype == kind


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_weight(variant: str) -> None:
    strategy, tokens = fresh(variant).train(), prompt()
    strategy.score(tokens).square().sum().backward()
    for name, parameter in strategy.modules().named_parameters():
        assert parameter.grad is not None
        reached = parameter.grad
        if name.endswith("qkv.bias"):  # a key's bias moves all logits of a query alike
            reached = torch.cat((reached[:W], reached[2 * W :]))
        assert reached.abs().max() > 0, name


def test_training_teaches_a_ranking() -> None:
    strategy = fresh(seed=1).train()
    optimiser = torch.optim.Adam(strategy.trainable_parameters(), lr=1e-2)
    tokens = prompt((4,) * 16, seed=2)
    wanted = (tokens.hidden * tokens.signal(Signal.TEXT_STATES)[:, -1:]).sum(-1).tanh()
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (strategy.score(tokens) - wanted).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]


def test_the_size_the_page_gives() -> None:
    with torch.device("meta"):
        module = ContextScorer(3584, 512, 2, 8)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6) == 8


def test_an_untrained_start_fits_the_model() -> None:
    for wide, width in ((128, 128), (4096, 512), (20, 16), (4, 8)):
        params = CoViPALStyle.untrained(ModelShape(12, 11, (1, 14, 14), wide, 6), 49)
        assert (params["dim"], params["width"]) == (wide, width)
        assert CoViPALStyle.from_params(**params).modules() is not None


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path: Path, variant: str, half: bool) -> None:
    strategy, tokens = fresh(variant), prompt()
    path = tmp_path / "covipal.safetensors"
    strategy.save_checkpoint(path, {"model": "tiny", "accuracy": "0.5"}, half=half)
    loaded = CoViPALStyle(CoViPALParams(checkpoint=path))
    assert type(loaded.modules()) is type(strategy.modules())
    near = 1e-2 if half else 0.0
    torch.testing.assert_close(loaded.score(tokens), strategy.score(tokens), atol=near, rtol=near)
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    assert facts["strategy"] == "covipal_style"
    assert (facts["variant"], facts["model"], facts["accuracy"]) == (variant, "tiny", "0.5")
    written = path.read_bytes()
    for _ in range(3):
        strategy.save_checkpoint(path, {"model": "tiny", "accuracy": "0.5"}, half=half)
        assert path.read_bytes() == written


def test_foreign_shapes_in_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "covipal.safetensors"
    fresh().save_checkpoint(path)
    with pytest.raises(CheckpointError, match="it has variant transformer"):
        CoViPALStyle.from_params(checkpoint=path, variant="mlp")
    tensors: dict[str, Tensor] = load_file(path)
    with safe_open(path, framework="pt") as file:
        right = file.metadata()
    for change, message in (
        ({"variant": "conv"}, "'variant' as 'conv'"),
        ({"heads": "3"}, "'heads' \\(3\\) must divide"),
        ({"depth": "1000000000"}, "'depth' as '1000000000'"),
        ({"depth": "3"}, "where .* belongs"),
        ({"width": "[" * 100000}, "'width' as"),
        ({"dim": "9" * 30}, "."),
    ):
        save_file(tensors, path, {**right, **change})
        with pytest.raises(CheckpointError, match=message):
            CoViPALStyle(CoViPALParams(checkpoint=path))


def test_weights_of_another_model_are_refused() -> None:
    tokens = prompt()
    with pytest.raises(CheckpointError, match="LLM states of width 8, and this model's have 6"):
        fresh(dim=8).reduce(tokens, budget(tokens, 3))


def test_bad_parameters() -> None:
    with pytest.raises(ValidationError, match="'heads'"):
        CoViPALParams(width=10, heads=4)
    with pytest.raises(ValidationError, match="'dim'"):
        CoViPALParams(init_seed=0)
    with pytest.raises(CheckpointError, match="trained weights"):
        CoViPALStyle(CoViPALParams())
