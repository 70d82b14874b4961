from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenprune_strategies.quecc import QueCC, QueCCParams, QueryCompressor
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.strategies.cases import budget, make_tokens
from tests.strategies.loops import Vector, add, attend, chain, linear, stir
from tokenprune.errors import BudgetError, CheckpointError
from tokenprune.interface.signals import Signal
from tokenprune.interface.sites import Site
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens
from tokenprune.interface.trainable import ModelShape

C, T = 4, 3
SITE = Site("pre_llm", 6, 6)
Grid = tuple[int, int, int]


def fresh(stride: int = 2, seed: int = 0, **params: Any) -> QueCC:
    """Untrained, with generic norms and biases; two levels, blocks 2 and 5 of 6."""
    shape = {"dim": C, "text_dim": T, "heads": 2, "levels": (0.5, 1.0), **params}
    strategy = QueCC.from_params(init_seed=seed, stride=stride, **shape)
    assert isinstance(strategy, QueCC)
    torch.manual_seed(seed)
    stir(strategy.modules())
    return strategy


def picture(grid: Grid, batch: int = 2, seed: int = 0) -> Tokens:
    torch.manual_seed(seed)
    count = grid[0] * grid[1] * grid[2]
    signals = {
        Signal.QUESTION_STATE: torch.randn(batch, T),
        Signal.HIDDEN.at(2): torch.randn(batch, count, C),
        Signal.HIDDEN.at(5): torch.randn(batch, count, C),
    }
    return make_tokens(torch.randn(batch, count, C), site=SITE, signals=signals, grid=grid)


def created(strategy: QueCC, tokens: Tokens) -> Tensor:
    frames, height, width = tokens.grid
    side = strategy.shape.stride
    keep = frames * (height // side) * (width // side)
    answer = strategy.reduce(tokens, budget(tokens, keep)).created
    assert answer is not None
    return answer


def oracle(m: QueryCompressor, tokens: Tokens, sample: int, side: int) -> list[Vector]:
    """The page's formulas, window by window, channel by channel, head by head."""
    frames, height, width = tokens.grid
    question = chain(m.text, tokens.signal(Signal.QUESTION_STATE)[sample].tolist())
    low, high = (tokens.signal(Signal.HIDDEN.at(block))[sample].tolist() for block in (2, 5))
    image = tokens.hidden[sample].tolist()
    kernel, shift = m.down.weight.tolist(), m.down.bias.tolist()
    made = []
    for t in range(frames):
        for row in range(0, height, side):
            for column in range(0, width, side):
                total, keys, values = list(shift), [], []
                for dy in range(side):
                    for dx in range(side):
                        n = (t * height + row + dy) * width + column + dx
                        q = chain(m.query, add(image[n], question))
                        total = [x + kernel[c][0][dy][dx] * q[c] for c, x in enumerate(total)]
                        keys.append(linear(m.key_in, chain(m.key, low[n] + high[n])))
                        values.append(linear(m.value_in, chain(m.value, low[n] + high[n])))
                read = attend(linear(m.query_in, total), keys, values, heads=2)
                made.append(linear(m.out, read))
    return made


@pytest.mark.parametrize(
    ("grid", "stride"),
    [((1, 4, 4), 2), ((1, 4, 4), 4), ((1, 4, 6), 2), ((1, 3, 6), 3), ((2, 2, 4), 2)],
)
def test_the_compressor_against_loops(grid: Grid, stride: int) -> None:
    for seed in range(3):
        strategy, tokens = fresh(stride, seed), picture(grid, seed=seed)
        made = created(strategy, tokens)
        for sample in range(2):
            wanted = torch.tensor(oracle(strategy.modules(), tokens, sample, stride))
            torch.testing.assert_close(made[sample], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("grid", "stride"), [((1, 6, 6), 3), ((2, 4, 8), 2), ((1, 8, 8), 8)])
def test_every_patch_goes_to_its_window_and_the_central_one_gives_its_place(
    grid: Grid, stride: int
) -> None:
    tokens = picture(grid)
    frames, height, width = grid
    rows, columns = height // stride, width // stride
    answer = fresh(stride).reduce(tokens, budget(tokens, frames * rows * columns))
    assert answer.slot is not None
    assert answer.anchor is not None
    for n in range(tokens.count):
        t, y, x = n // (height * width), n // width % height, n % width
        assert answer.slot[0, n] == (t * rows + y // stride) * columns + x // stride
    assert (answer.anchor.diff(dim=1) > 0).all()
    for slot, anchor in enumerate(answer.anchor[0].tolist()):
        assert answer.slot[0, anchor] == slot
        inside = (anchor // width % height % stride, anchor % width % stride)
        assert inside == (stride // 2, stride // 2)
    assert answer.sizes(tokens.size).eq(stride * stride).all()
    assert answer.apply(tokens.hidden, tokens.size).shape == (2, frames * rows * columns, C)


def test_the_strides_of_the_page_on_clip() -> None:
    made = {2: 144, 3: 64, 4: 36, 6: 16, 8: 9, 12: 4, 24: 1}
    for stride, keep in made.items():
        fresh(stride).check(SITE, Budget(576, keep), (1, 24, 24))
        shape = ModelShape(32, 23, (1, 24, 24), 48, 8)
        assert QueCC.untrained(shape, keep)["stride"] == stride


def test_the_size_the_page_gives_for_clip() -> None:
    with torch.device("meta"):
        module = QueryCompressor(1024, 4096, levels=4, stride=4, heads=8)
    assert round(sum(p.numel() for p in module.parameters()) / 1e6) == 21


def test_levels_become_blocks_of_any_encoder() -> None:
    params = QueCCParams()
    assert params.blocks(23) == [11, 15, 21, 22]  # entries 12, 16, 22, 23
    assert params.blocks(11) == [5, 7, 10, 10]
    assert params.blocks(1) == [0, 0, 0, 0]
    assert QueCCParams(levels=(0.5, 0.6)).blocks(10) == [4, 5]  # exact products stay
    strategy = fresh(levels=params.levels)
    asked = strategy.signals(Site("pre_llm", 11, 11))
    assert asked == (Signal.QUESTION_STATE, *(Signal.HIDDEN.at(b) for b in (5, 7, 10)))


def test_levels_that_share_a_block_read_it_twice() -> None:
    strategy, tokens = fresh(levels=(0.95, 1.0)), picture((1, 4, 4))
    twice = tokens.signal(Signal.HIDDEN.at(5)).repeat(1, 1, 2)
    question = tokens.signal(Signal.QUESTION_STATE)
    wanted = strategy.modules()(tokens.hidden, twice, question, tokens.grid)
    torch.testing.assert_close(created(strategy, tokens), wanted)


def test_a_grid_that_the_stride_does_not_divide_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"stride 4 doesn't divide .* 27 x 27") as caught:
        fresh(4).check(SITE, Budget(729, 49), (1, 27, 27))
    assert "3 (81 tokens), 9 (9 tokens), 27 (1 tokens)" in str(caught.value)
    assert caught.value.nearest == 81
    with pytest.raises(BudgetError, match="No stride divides it"):
        fresh(2).check(SITE, Budget(15, 4), (1, 3, 5))
    # and at run time, for models whose grid changes with the image
    tokens = picture((1, 3, 4))
    with pytest.raises(BudgetError, match="3 x 4"):
        fresh(2).reduce(tokens, budget(tokens, 2))


def test_another_budget_is_refused_with_the_nearest() -> None:
    strategy = fresh(2)
    strategy.check(SITE, Budget(16, 4), (1, 4, 4))
    for keep in (3, 5, 16):
        with pytest.raises(BudgetError, match=f"4 tokens with stride 2, not {keep}") as caught:
            strategy.check(SITE, Budget(16, keep), (1, 4, 4))
        assert caught.value.nearest == 4


def test_the_whole_grid_must_arrive() -> None:
    strategy = fresh(2)
    with pytest.raises(BudgetError, match="whole grid of 16 tokens, and 12 arrive"):
        strategy.check(SITE, Budget(12, 4), (1, 4, 4))
    tokens = picture((1, 4, 4))
    cut = make_tokens(tokens.hidden[:, :12], site=SITE, grid=(1, 4, 4))
    with pytest.raises(BudgetError, match="12 arrive"):
        strategy.reduce(cut, budget(cut, 4))


def test_every_image_has_its_own_question_and_a_batch_is_its_samples() -> None:
    strategy, tokens = fresh(2), picture((1, 4, 4), batch=3)
    together = created(strategy, tokens)
    for sample in range(3):
        pick = slice(sample, sample + 1)
        signals = {n: v[pick] for n, v in tokens.signals.items()}
        alone = make_tokens(tokens.hidden[pick], site=SITE, grid=tokens.grid)
        object.__setattr__(alone, "signals", signals)
        torch.testing.assert_close(created(strategy, alone)[0], together[sample])
    other = dict(tokens.signals)
    other["question_state"] = tokens.signal(Signal.QUESTION_STATE).flip(0)
    object.__setattr__(tokens, "signals", other)
    again = created(strategy, tokens)
    torch.testing.assert_close(again[1], together[1])  # the middle one kept its question
    assert not torch.allclose(again[0], together[0], atol=1e-4)


def test_gradients_reach_every_weight_and_not_the_question() -> None:
    strategy, tokens = fresh(2).train(), picture((1, 4, 4))
    question = tokens.signal(Signal.QUESTION_STATE).requires_grad_()
    tokens.hidden.requires_grad_()
    created(strategy, tokens).square().sum().backward()
    # a key's bias moves all logits of a query alike, so the softmax leaves it no gradient
    idle = {n for n, p in strategy.modules().named_parameters() if not p.grad.abs().max() > 1e-6}
    assert idle <= {"key_in.bias", "key.3.bias"}
    assert question.grad is None
    assert tokens.hidden.grad is not None


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_states(kind: torch.dtype) -> None:
    strategy, tokens = fresh(2), picture((1, 4, 4))
    largest = 6e4 if kind == torch.float16 else 1e30
    signals = {Signal(n): v.to(kind) for n, v in tokens.signals.items()}
    hidden = (tokens.hidden.sign() * largest).to(kind)
    half = make_tokens(hidden, site=SITE, signals=signals, grid=tokens.grid)
    made = strategy.reduce(half, budget(half, 4)).apply(half.hidden, half.size)
    assert made.dtype == kind
    assert torch.isfinite(made).all()


def test_shapes_come_from_the_grid_alone() -> None:
    strategy, tokens = fresh(2), picture((1, 4, 4))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = make_tokens(mode.from_tensor(tokens.hidden), site=SITE, grid=tokens.grid)
        signals = {name: mode.from_tensor(value) for name, value in tokens.signals.items()}
        object.__setattr__(fake, "signals", signals)
        answer = strategy.reduce(fake, budget(fake, 4))
        assert answer.apply(fake.hidden, fake.size).shape == (2, 4, C)


def test_one_graph_without_breaks() -> None:
    strategy, tokens = fresh(2), picture((1, 4, 4))

    def step(tokens: Tokens) -> Tensor:
        return strategy.reduce(tokens, budget(tokens, 4)).apply(tokens.hidden, tokens.size)

    compiled = torch.compile(step, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens), step(tokens))


def test_an_untrained_start_fits_the_model() -> None:
    shape = ModelShape(12, 11, (1, 14, 14), 20, 6)
    params = QueCC.untrained(shape, 49)
    strategy = QueCC.from_params(**params)
    strategy.check(Site("pre_llm", 11, 11), Budget(196, 49), shape.grid)
    assert (params["dim"], params["text_dim"], params["heads"]) == (12, 20, 4)
    assert QueCC.untrained(shape, None)["stride"] == 2
    with pytest.raises(BudgetError, match="no stride leaves 36") as caught:
        QueCC.untrained(shape, 36)
    assert caught.value.nearest == 49


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_round_trip(tmp_path: Path, half: bool) -> None:
    strategy, tokens = fresh(2), picture((1, 4, 4))
    path = tmp_path / "quecc.safetensors"
    strategy.save_checkpoint(path, {"model": "tiny", "keep": "4"}, half=half)
    loaded = QueCC(QueCCParams(checkpoint=path))
    assert loaded.shape.levels == (0.5, 1.0)
    assert (loaded.shape.stride, loaded.shape.heads) == (2, 2)
    assert all(p.dtype == torch.float32 for p in loaded.trainable_parameters())
    near = 1e-2 if half else 0.0
    torch.testing.assert_close(
        created(loaded, tokens), created(strategy, tokens), atol=near, rtol=near
    )


def test_the_plan_and_the_checkpoint_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "quecc.safetensors"
    fresh(2).save_checkpoint(path)
    for key, value in (("stride", 4), ("levels", (0.5, 0.75)), ("heads", 1)):
        with pytest.raises(CheckpointError, match=f"it has {key}"):
            QueCC.from_params(checkpoint=path, **{key: value})
    QueCC.from_params(checkpoint=path, stride=2, levels=[0.5, 1.0])


def test_weights_of_another_model_are_refused() -> None:
    strategy, tokens = fresh(2, text_dim=T + 1), picture((1, 4, 4))
    with pytest.raises(CheckpointError, match="question states of width 4"):
        strategy.reduce(tokens, budget(tokens, 4))
    with pytest.raises(CheckpointError, match="visual tokens of width 8"):
        fresh(2, dim=8).reduce(tokens, budget(tokens, 4))


def test_bad_parameters() -> None:
    for params in ({"stride": 1}, {"levels": ()}, {"levels": (0.0,)}, {"levels": (1.2,)}):
        with pytest.raises(ValidationError):
            QueCCParams(**params)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="'heads'"):
        QueCCParams(dim=10, heads=4)
    with pytest.raises(ValidationError, match="'dim' and 'text_dim'"):
        QueCCParams(init_seed=0)
    with pytest.raises(CheckpointError, match="trained weights"):
        QueCC(QueCCParams())
