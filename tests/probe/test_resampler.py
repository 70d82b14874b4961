"""The resampler against a transcription in loops, its masks, and what a fit reaches."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tokenprune.interface.tokens import grid_positions
from tokenprune.lab.probe import Resampler, States, fit_probe, sinusoid
from tokenprune.lab.probe.distill import Distillation, info_nce
from tokenprune.lab.probe.fit import Probe

GRID, WIDTH, TARGET = (2, 2, 3), 5, 12
PATCHES = 6


def states(*counts: int, seed: int = 0) -> States:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in counts:
        index = torch.randperm(2 * PATCHES, generator=generator)[:count].sort().values
        hidden = torch.randn(count, WIDTH, generator=generator)
        rows.append((hidden, grid_positions(GRID, index)))
    return States.of(rows)


def shaken(seed: int = 1) -> Resampler:
    module = Resampler(WIDTH, TARGET, GRID)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def wave(position: list[int], width: int) -> Tensor:
    out = torch.zeros(width)
    pairs = width // 6
    for axis, place in enumerate(position):
        for pair in range(pairs):
            angle = place / 10_000 ** (pair / pairs)
            out[2 * pairs * axis + pair] = math.sin(angle)
            out[2 * pairs * axis + pairs + pair] = math.cos(angle)
    return out


def oracle(module: Resampler, hidden: Tensor, position: Tensor, frame: int) -> Tensor:
    """One sample, patch by patch and head by head."""
    x = [
        module.project_in(h) + wave(p.tolist(), TARGET)
        for h, p in zip(hidden, position, strict=True)
    ]
    q = []
    for patch in range(PATCHES):
        place = [frame, patch // 3, patch % 3]
        q.append(module.project_in(module.latents[patch]) + wave(place, TARGET))
    seen = [layer_norm(t, module.norm_tokens) for t in x] + [
        layer_norm(t, module.norm_latents) for t in q
    ]
    found = []
    for latent in q:
        query = module.query(layer_norm(latent, module.norm_latents))
        heads = []
        for head in range(4):
            part = slice(32 * head, 32 * head + 32)
            logits = torch.stack([query[part] @ module.key(s)[part] / 32**0.5 for s in seen])
            weight = logits.exp() / logits.exp().sum()
            heads.append(sum(w * module.value(s)[part] for w, s in zip(weight, seen, strict=True)))
        read = latent + module.project_heads(torch.cat(heads))  # type: ignore[arg-type]
        inner = module.feed_forward
        hidden_state = inner[1](layer_norm(read, inner[0]))  # type: ignore[arg-type]
        gelu = hidden_state * 0.5 * (1 + torch.erf(hidden_state / 2**0.5))
        read = read + inner[3](gelu)
        found.append(layer_norm(module.project_out(read), module.norm_out))
    return torch.stack(found)


@pytest.mark.parametrize("frame", [0, 1])
def test_the_resampler_is_the_papers(frame: int) -> None:
    module, given = shaken(), states(4, 7)
    with torch.no_grad():
        found = module(given, frame)
        for number, (hidden, position) in enumerate(given.rows()):
            expected = oracle(module, hidden, position, frame)
            torch.testing.assert_close(found[number], expected, rtol=1e-4, atol=1e-5)


def test_sinusoids_of_odd_widths_end_in_zeros() -> None:
    found = sinusoid(torch.tensor([[0, 1, 2]]), 14)
    assert found.shape == (1, 14)
    torch.testing.assert_close(found[0], wave([0, 1, 2], 14))
    assert not found[0, 12:].any()


def test_padding_is_never_read_and_a_batch_gives_what_its_samples_give() -> None:
    module, given = shaken(), states(0, 3, 12)
    poisoned = States(
        given.hidden.masked_fill(~given.mask[..., None], float("nan")), given.position, given.mask
    )
    with torch.no_grad():
        together = module(poisoned, 0)
        assert together.isfinite().all(), "also of a sample without any token"
        for number, row in enumerate(given.rows()):
            torch.testing.assert_close(together[number], module(States.of([row]), 0)[0])


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = (Resampler(WIDTH, TARGET, GRID, seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(one.key.weight, one.query.weight)


@pytest.fixture(scope="module")
def fitted() -> tuple[Probe, States, Tensor]:
    """Features are a linear map of the states in their places, 2 frames of 2 x 2."""
    generator = torch.Generator().manual_seed(5)
    grid, count = (2, 2, 2), 8
    hidden = torch.randn(288, count, 8, generator=generator)
    index = torch.arange(count).expand(288, -1)
    made = torch.randn(8, 24, generator=generator)
    target = (hidden @ made).unflatten(1, (2, 4)) + 3.0
    given = States(hidden, grid_positions(grid, index), torch.ones_like(index, dtype=torch.bool))
    return fit_probe(given[:256], target[:256], grid, epochs=60), given[256:], target[256:]


def test_a_fit_reads_what_is_there_and_nothing_else(
    fitted: tuple[Probe, States, Tensor],
) -> None:
    probe, given, target = fitted
    full, null = probe.score(given, target), probe.null(given, target)
    assert full.shape == target.shape[:3]
    assert full.mean() > 0.85
    assert null.mean().abs() < 0.1
    half = States(given.hidden[:, ::2], given.position[:, ::2], given.mask[:, ::2])
    between = probe.score(half, target).mean()
    assert 0.3 < between < 0.6
    assert not any(parameter.requires_grad for parameter in probe.resampler.parameters())


def test_a_score_is_a_cosine_without_the_mean_feature(fitted: tuple[Probe, States, Tensor]) -> None:
    probe, given, target = fitted
    read = probe.resampler(given, 1)
    centred = target[:, 1] - probe.centre
    for sample, patch in ((0, 0), (3, 3)):
        a, b = read[sample, patch], centred[sample, patch]
        expected = (a @ b) / (a.norm() * b.norm())
        assert probe.score(given, target)[sample, 1, patch] == pytest.approx(
            float(expected), abs=1e-5
        )


def test_info_nce_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    one, other = torch.randn(2, 3, 2, 4, generator=generator)
    total = 0.0
    for i in range(3):
        a = one[i].flatten() / one[i].norm()
        similar = [float(a @ (other[j].flatten() / other[j].norm())) for j in range(3)]
        weights = [math.exp(7.0 * s) for s in similar]
        total -= math.log(weights[i] / sum(weights))
    assert float(info_nce(one, other, 7.0)) == pytest.approx(total / 3, rel=1e-5)


def test_a_picture_that_a_batch_has_twice_is_no_negative_of_itself() -> None:
    one, other = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(4))
    other[2] = other[0]
    total = 0.0
    for i in range(4):
        similar = [float(torch.cosine_similarity(one[i], other[j], dim=0)) for j in (0, 1, 3)]
        weights = [math.exp(7.0 * s) for s in similar]
        total -= math.log(weights[[0, 1, 0, 2][i]] / sum(weights))
    assert float(info_nce(one, other, 7.0)) == pytest.approx(total / 4, rel=1e-5)


def test_the_auxiliary_loss_reaches_the_tokens_and_not_the_targets() -> None:
    given = states(4, 6)
    hidden = given.hidden.clone().requires_grad_(True)
    target = torch.randn(2, PATCHES, TARGET, requires_grad=True)
    loss = Distillation(WIDTH, TARGET, GRID)
    value = loss(States(hidden, given.position, given.mask), target)
    value.backward()
    assert hidden.grad is not None
    assert hidden.grad[given.mask].abs().sum(dim=1).min() > 0
    assert not hidden.grad[~given.mask].any()
    assert target.grad is None
    assert loss.tau.grad is not None
    double = Distillation(WIDTH, TARGET, GRID, weight=1.0)(given, target)
    assert double.item() == pytest.approx(2 * value.item(), rel=1e-5)
    wanted = target.detach() / target.detach().square().mean().sqrt()
    predicted = loss.resampler(given, 0)
    smooth = torch.nn.functional.smooth_l1_loss(predicted, wanted)
    parts = smooth + 0.3 * info_nce(predicted, wanted, math.exp(2.0))
    assert value.item() == pytest.approx(0.5 * parts.item(), rel=1e-5)
