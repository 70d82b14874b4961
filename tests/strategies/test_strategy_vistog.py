import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from tokenprune_strategies.vistog import VisToG, VisToGParams
from torch import Tensor

from tests.strategies.cases import SITES, budget, make_tokens
from tokenprune.errors import BudgetError, CheckpointError
from tokenprune.interface.signals import Signal
from tokenprune.interface.strategy import Budget
from tokenprune.interface.tokens import Tokens

G, D, N = 4, 6, 10


def fresh(seed: int = 0, groups: int = G, dim: int = D) -> VisToG:
    """Untrained, with generic norms and biases."""
    strategy = VisToG(VisToGParams(init_seed=seed, groups=groups, dim=dim))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in strategy.trainable_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return strategy


def picture(seed: int = 0, batch: int = 2, companions: Tensor | None = None) -> Tokens:
    torch.manual_seed(seed)
    hidden, final = torch.randn(batch, N, D), torch.randn(batch, G, D)
    signals = {Signal.COMPANIONS: final if companions is None else companions}
    return make_tokens(hidden, site=SITES["pre_llm"], signals=signals)


def linear(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weight, bias, strict=True)
    ]


def norm(layer: torch.nn.LayerNorm, x: list[float]) -> list[float]:
    mean = sum(x) / len(x)
    spread = math.sqrt(sum((v - mean) ** 2 for v in x) / len(x) + layer.eps)
    gain, shift = layer.weight.tolist(), layer.bias.tolist()
    return [(v - mean) / spread * g + b for v, g, b in zip(x, gain, shift, strict=True)]


def oracle(strategy: VisToG, semantic: Tensor, tokens: Tensor) -> tuple[list[int], Tensor]:
    """The grouping layer of one image, token by token."""
    m = strategy.modules()
    z, image = semantic.tolist(), [norm(m.norm_tokens, x) for x in tokens.tolist()]
    query = [linear(m.query, norm(m.norm_semantic, x)) for x in z]
    members: list[list[int]] = [[] for _ in z]
    group = []
    for n, x in enumerate(image):
        key = linear(m.key, x)
        logits = [sum(a * b for a, b in zip(q, key, strict=True)) / math.sqrt(D) for q in query]
        group.append(max(range(len(z)), key=lambda g: (logits[g], -g)))
        members[group[-1]].append(n)
    rows = []
    for g, state in enumerate(z):
        values = [linear(m.value, image[n]) for n in members[g]]
        pooled = [sum(v[d] for v in values) / (len(values) + m.eps) for d in range(D)]
        new = [a + b for a, b in zip(state, linear(m.out, pooled), strict=True)]
        inner = linear(m.mlp[1], norm(m.mlp[0], new))
        active = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in inner]
        rows.append([a + b for a, b in zip(new, linear(m.mlp[3], active), strict=True)])
    return group, torch.tensor(rows)


def test_grouping_against_loops() -> None:
    for seed in range(6):
        strategy, tokens = fresh(seed), picture(seed)
        answer = strategy.reduce(tokens, budget(tokens, G))
        assert answer.created is not None
        assert answer.slot is not None
        for sample in range(2):
            final = tokens.signal(Signal.COMPANIONS)[sample]
            group, rows = oracle(strategy, final, tokens.hidden[sample])
            assert answer.slot[sample].tolist() == group
            torch.testing.assert_close(answer.created[sample], rows, atol=1e-4, rtol=1e-4)
        assert answer.sizes(tokens.size).sum(1).tolist() == [N, N]
        assert answer.apply(tokens.hidden, tokens.size).shape == (2, G, D)


def test_an_empty_group_gives_its_semantic_token() -> None:
    strategy = fresh()
    m = strategy.modules()
    with torch.no_grad():
        m.query.weight.zero_()
        m.query.bias.zero_()  # all logits equal: everything joins group 0
        m.out.bias.zero_()
        m.mlp[3].weight.zero_()
        m.mlp[3].bias.zero_()
    tokens = picture()
    answer = strategy.reduce(tokens, budget(tokens, G))
    assert answer.slot is not None
    assert answer.created is not None
    assert answer.slot.eq(0).all()
    assert torch.equal(answer.created[:, 1:], tokens.signal(Signal.COMPANIONS)[:, 1:])


def test_inference_is_deterministic_and_training_draws_noise_from_the_plan_seed() -> None:
    tokens = picture()
    keep = budget(tokens, G)

    def created(strategy: VisToG) -> Tensor:
        answer = strategy.reduce(tokens, keep)
        assert answer.created is not None
        return answer.created

    strategy = fresh()
    assert torch.equal(created(strategy), created(strategy))
    first, second = fresh().train(), fresh().train()
    draws = [created(first) for _ in range(8)]
    assert all(torch.equal(a, created(second)) for a in draws)
    assert any(not torch.equal(draws[0], later) for later in draws[1:])
    assert torch.equal(created(first.train(False)), created(strategy))


def test_training_forward_is_as_hard_as_inference() -> None:
    strategy = fresh().train()
    tokens = picture()
    answer = strategy.reduce(tokens, budget(tokens, G))
    # the group that was drawn, pooled without any softness left in the forward values
    assert answer.slot is not None
    m = strategy.modules()
    hot = (answer.slot[:, None] == torch.arange(G)[:, None]).float()
    values = m.value(m.norm_tokens(tokens.hidden))
    pooled = hot @ values / (hot.sum(-1, keepdim=True) + m.eps)
    new = tokens.signal(Signal.COMPANIONS) + m.out(pooled)
    assert answer.created is not None
    torch.testing.assert_close(answer.created, new + m.mlp(new), atol=1e-5, rtol=1e-5)


class ToyEncoder(torch.nn.Module):
    """Two attention blocks; the semantic tokens read the image and are not read by it."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = torch.nn.Linear(3, D)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(D, D) for _ in range(2))

    def forward(self, patches: Tensor, semantic: Tensor) -> tuple[Tensor, Tensor]:
        image, z = self.patch(patches), semantic.expand(patches.shape[0], -1, -1)
        for block in self.blocks:
            both = torch.cat((image, z), dim=1)
            z = z + block((z @ both.mT / D**0.5).softmax(-1) @ both)
            image = image + block((image @ image.mT / D**0.5).softmax(-1) @ image)
        return image, z


def test_training_lowers_a_loss_and_reaches_the_semantic_tokens() -> None:
    torch.manual_seed(0)
    encoder, readout = ToyEncoder(), torch.nn.Linear(G * D, 2)
    encoder.requires_grad_(False)
    strategy = VisToG(VisToGParams(init_seed=0, groups=G, dim=D)).train()
    start = strategy.companions().detach().clone()
    patches = torch.randn(32, N, 3)
    target = torch.stack((patches[..., 0].amax(1), patches[..., 1].mean(1)), dim=1)
    optimiser = torch.optim.Adam([*strategy.trainable_parameters(), *readout.parameters()], lr=1e-2)

    def loss() -> Tensor:
        image, z = encoder(patches, strategy.companions())
        tokens = make_tokens(image, site=SITES["pre_llm"], signals={Signal.COMPANIONS: z})
        answer = strategy.reduce(tokens, budget(tokens, G))
        made = answer.apply(image, tokens.size)
        return torch.nn.functional.mse_loss(readout(made.flatten(1)), target)

    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        losses.append(value.item())
        optimiser.step()
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert not torch.equal(strategy.companions(), start)
    strategy.train(False)
    assert loss().item() < losses[0]


def test_the_assignment_itself_gets_a_gradient_only_in_training() -> None:
    tokens = picture()
    for training in (True, False):
        strategy = fresh().train(training)
        answer = strategy.reduce(tokens, budget(tokens, G))
        assert answer.created is not None
        answer.created.square().sum().backward()
        gradient = strategy.modules().query.weight.grad  # touches nothing but the assignment
        assert (gradient is not None and gradient.abs().sum() > 0) == training


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    strategy, tokens = fresh(3), picture()
    path = tmp_path / "vistog.safetensors"
    strategy.save_checkpoint(path)
    loaded = VisToG(VisToGParams(checkpoint=path))
    assert loaded.groups == G
    for name, value in strategy.modules().state_dict().items():
        assert torch.equal(loaded.modules().state_dict()[name], value)
    assert all(p.requires_grad for p in loaded.trainable_parameters())
    one, two = (s.reduce(tokens, budget(tokens, G)).created for s in (strategy, loaded))
    assert one is not None
    assert two is not None
    assert torch.equal(one, two)


def test_keep_must_be_the_number_of_groups() -> None:
    strategy = fresh()
    strategy.check(SITES["pre_llm"], Budget(16, G), (1, 4, 4))
    with pytest.raises(BudgetError, match=r"each of its groups: 4, not 1\.") as caught:
        strategy.check(SITES["pre_llm"], Budget(16, 1), (1, 4, 4))
    assert caught.value.nearest == G


def test_untrained_use_must_be_asked_for() -> None:
    with pytest.raises(CheckpointError, match="trained weights"):
        VisToG(VisToGParams())
    with pytest.raises(ValidationError, match="'dim'"):
        VisToGParams(init_seed=0)
    with pytest.raises(ValidationError, match="not both"):
        VisToGParams(init_seed=0, dim=4, checkpoint=Path("x"))


def test_init_follows_its_seed_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (VisToG(VisToGParams(init_seed=s, dim=D)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert a.groups == 64
    assert torch.equal(a.companions(), b.companions())
    assert not torch.equal(a.companions(), c.companions())


def test_half_precision_states_come_back_in_their_type() -> None:
    strategy, tokens = fresh(), picture()
    signals = {Signal.COMPANIONS: tokens.signal(Signal.COMPANIONS).bfloat16()}
    half = make_tokens(tokens.hidden.bfloat16(), site=tokens.site, signals=signals)
    made = strategy.reduce(half, budget(half, G)).apply(half.hidden, half.size)
    assert made.dtype == torch.bfloat16
