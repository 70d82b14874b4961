import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenprune.ops import Diversity, bipartite_match, knn_density, match_pairs
from tokenprune.ops.cosines import gains, gram, unit_rows


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y) / max(float(x.norm()), 1e-12) / max(float(y.norm()), 1e-12)


@given(st.integers(0, 99), st.integers(1, 7), st.integers(1, 7), st.booleans())
@settings(deadline=None, max_examples=20)
def test_match_against_loops(seed: int, rows: int, cols: int, squash: bool) -> None:
    torch.manual_seed(seed)
    a, b = torch.randn(rows, 5), torch.randn(cols, 5)
    gain_a, gain_b, bias_a, bias_b = (torch.randn(n) for n in (rows, cols, rows, cols))
    block_a, block_b = torch.rand(rows) < 0.3, torch.rand(cols) < 0.3
    value, index = bipartite_match(
        a[None], b[None], gain_a=gain_a[None], gain_b=gain_b[None], bias_a=bias_a[None],
        bias_b=bias_b[None], block_a=block_a[None], block_b=block_b[None], squash=squash,
    )  # fmt: skip
    for i in range(rows):
        best, at = -math.inf, 0
        for j in range(cols):
            sim = cosine(a[i], b[j])
            sim = (1 + sim) / 2 if squash else sim
            score = sim * float(gain_a[i] * gain_b[j]) + float(bias_a[i] + bias_b[j])
            if score > best and not block_a[i] and not block_b[j]:
                best, at = score, j
        assert index[0, i] == at
        assert float(value[0, i]) == pytest.approx(best, abs=1e-5)


def test_match_ties_go_to_the_lower_index() -> None:
    a, b = torch.ones(1, 3, 4), torch.ones(1, 40, 4)
    blocked = torch.zeros(1, 40, dtype=torch.bool)
    assert bipartite_match(a, b)[1].tolist() == [[0, 0, 0]]
    blocked[:, :7] = True
    assert bipartite_match(a, b, block_b=blocked)[1].tolist() == [[7, 7, 7]]


@pytest.mark.parametrize("squash", [False, True])
def test_match_of_zeros_opposites_and_duplicates_is_finite(squash: bool) -> None:
    a = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    value, index = bipartite_match(a, -a, squash=squash)
    assert torch.isfinite(value).all()
    assert index.tolist() == [[0, 2, 1, 1]]


def test_match_blocks_win_over_negative_and_zero_terms() -> None:
    a = torch.randn(1, 3, 4)
    everything = torch.ones(1, 3, dtype=torch.bool)
    value, index = bipartite_match(
        a, a, gain_a=torch.zeros(1, 3), gain_b=-torch.ones(1, 3), block_a=everything
    )
    assert value.tolist() == [[-math.inf] * 3]
    assert index.tolist() == [[0] * 3]


def test_match_does_not_depend_on_length_or_batch() -> None:
    a, b = torch.randn(4, 21, 16), torch.randn(4, 23, 16)
    value, index = bipartite_match(a, b)
    scaled = bipartite_match(a * 7, b * 0.01)
    torch.testing.assert_close(scaled, (value, index))
    for i in range(4):
        alone = bipartite_match(a[i : i + 1], b[i : i + 1])
        assert torch.equal(alone[0][0], value[i])
        assert torch.equal(alone[1][0], index[i])


def test_match_refuses_what_does_not_fit() -> None:
    a = torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match="don't fit"):
        bipartite_match(a, torch.randn(1, 3, 5))
    with pytest.raises(ValueError, match="at least one"):
        bipartite_match(a, a[:, :0])
    with pytest.raises(ValueError, match="gain_b must be"):
        bipartite_match(a, a, gain_b=torch.ones(1, 2))


@given(st.integers(0, 99), st.integers(1, 9), st.integers(1, 6), st.sampled_from([0.5, 1.0, None]))
@settings(deadline=None, max_examples=20)
def test_density_against_loops(seed: int, length: int, count: int, tau: float | None) -> None:
    torch.manual_seed(seed)
    x = torch.randn(1, length, 5)
    got = knn_density(x, neighbours=count, tau=tau)[0]
    if length == 1:
        assert got.tolist() == [1.0]
        return
    unit = [v / v.norm() for v in x[0]]
    near = [
        sorted(float((u - v).square().sum()) for j, v in enumerate(unit) if j != i)[:count]
        for i, u in enumerate(unit)
    ]
    width = tau**2 if tau else sum(map(sum, near)) / sum(map(len, near))
    want = [1 - sum(math.exp(-d / width) for d in row) / len(row) for row in near]
    torch.testing.assert_close(got, torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_density_follows_a_permutation() -> None:
    x, order = torch.randn(2, 30, 6), torch.randperm(30)
    shuffled = knn_density(x[:, order], neighbours=4, tau=1.0)
    torch.testing.assert_close(shuffled, knn_density(x, neighbours=4, tau=1.0)[:, order])


@pytest.mark.parametrize("tau", [1.0, None])
def test_density_of_duplicates_and_zeros_is_zero(tau: float | None) -> None:
    for x in (torch.ones(1, 6, 4), torch.zeros(1, 6, 4)):
        density = knn_density(x, neighbours=3, tau=tau)
        torch.testing.assert_close(density, torch.zeros(1, 6), atol=1e-5, rtol=0)


def test_density_is_higher_for_an_outlier_and_scales_per_image() -> None:
    x = torch.randn(2, 12, 4) * 0.05 + torch.tensor([1.0, 0, 0, 0])
    x[:, 5] = torch.tensor([0.0, 1, 0, 0])
    density = knn_density(x, neighbours=3, tau=None)
    assert density.argmax(1).tolist() == [5, 5]
    assert torch.equal(density[1:], knn_density(x[1:], neighbours=3, tau=None))


def test_density_refuses_senseless_settings() -> None:
    with pytest.raises(ValueError, match="neighbours"):
        knn_density(torch.ones(1, 2, 2), neighbours=0, tau=1.0)
    with pytest.raises(ValueError, match="tau"):
        knn_density(torch.ones(1, 2, 2), neighbours=1, tau=0.0)


@pytest.mark.parametrize(("length", "rows"), [(5, 3), (96, 96), (301, 96), (301, 97), (301, 301)])
def test_mirrored_gram_matrix(length: int, rows: int) -> None:
    x = torch.randn(length, 7)
    torch.testing.assert_close(gram(x), x @ x.T)
    torch.testing.assert_close(gram(x, rows), x[:rows] @ x.T)


def expected_pairs(
    x: Tensor, remove: int, order: list[int], d: Tensor, weight: float, blocked: set[int]
) -> list[tuple[int, int]]:
    """By loops over the candidates in `order`, which propose and receive in turn."""
    ahead, behind = order[0::2], order[1::2]

    def score(i: int, j: int) -> float:
        return cosine(x[i], x[j]) * math.exp(-weight * float(d[i] + d[j]))

    made = []
    for place, i in enumerate(ahead):
        free = [j for j in behind if not blocked & {i, j}]
        best = max(free or behind, key=lambda j: score(i, j))
        made.append((not free, -score(i, best), place, i, best))
    return [(i, j) for *_, i, j in sorted(made)[:remove]]


@given(
    st.integers(0, 99),
    st.integers(2, 9),
    st.sampled_from(["all", "order", "blocked"]),
    st.sampled_from([1.0, None]),
)
@settings(deadline=None, max_examples=40)
def test_pairs_against_loops(seed: int, count: int, kind: str, tau: float | None) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(2, count, 5), 1.5
    order = torch.stack([torch.randperm(count) for _ in x])
    some = count if kind != "order" else int(torch.randint(2, count + 1, ()))
    blocked = torch.rand(2, count) < 0.4
    remove = int(torch.randint(0, (some + 1) // 2 + 1, ()))
    source, target = match_pairs(
        x,
        remove,
        order=order if kind == "order" else None,
        candidates=some,
        blocked=blocked if kind == "blocked" else None,
        diversity=Diversity(weight, 3, tau),
    )
    density = knn_density(x, neighbours=3, tau=tau)
    for b in range(2):
        places = order[b, :some].tolist() if kind == "order" else list(range(count))
        out = set(blocked[b].nonzero()[:, 0].tolist()) if kind == "blocked" else set()
        want = expected_pairs(x[b], remove, places, density[b], weight, out)
        assert list(zip(source[b].tolist(), target[b].tolist(), strict=True)) == want


@pytest.mark.parametrize("tau", [0.4, None])
def test_the_density_of_candidates_is_that_among_all_tokens(tau: float | None) -> None:
    x = torch.randn(2, 12, 4) + torch.tensor([4.0, 0, 0, 0])
    x[:, 7:] *= torch.tensor([1.0, 9, 9, 9])  # others stand far apart, and count for the width
    unit = unit_rows(x)
    found, cosine = gains(unit, 7, 2.0, 3, tau)
    want = (-2.0 * knn_density(x, neighbours=3, tau=tau)).exp()
    torch.testing.assert_close(found[:, :7], want[:, :7])
    torch.testing.assert_close(cosine[:, :7], (unit @ unit.mT)[:, :7])


def test_pairs_of_duplicates_and_zeros_go_to_the_lower_index() -> None:
    x = torch.ones(1, 8, 3)
    assert [pair.tolist() for pair in match_pairs(x, 2)] == [[[0, 2]], [[1, 1]]]
    assert [pair.tolist() for pair in match_pairs(x, 2, first=1)] == [[[1, 3]], [[0, 0]]]
    x[:, 3], x[:, 4] = 0, 0
    for tau in (1.0, None):
        source, target = match_pairs(x, 4, diversity=Diversity(1.0, 2, tau))
        assert (source.tolist(), target.tolist()) == ([[0, 2, 6, 4]], [[1, 1, 1, 1]])


@pytest.mark.parametrize(("count", "some"), [(300, 250), (40, 31)])
def test_pairs_of_a_batch_are_those_of_its_samples(count: int, some: int) -> None:
    x, order = torch.randn(5, count, 9), torch.stack([torch.randperm(count) for _ in range(5)])
    together = match_pairs(x, 12, order=order, candidates=some, diversity=Diversity(1.0, 8, None))
    for i in range(5):
        alone = match_pairs(
            x[i : i + 1],
            12,
            order=order[i : i + 1],
            candidates=some,
            diversity=Diversity(1.0, 8, None),
        )
        assert all(torch.equal(a[0], b[i]) for a, b in zip(alone, together, strict=True))


def test_pairs_refuse_what_does_not_fit() -> None:
    x = torch.randn(1, 5, 4)
    with pytest.raises(ValueError, match=r"remove must be in 0\.\.3, not 4"):
        match_pairs(x, 4)
    with pytest.raises(ValueError, match=r"remove must be in 0\.\.0"):
        match_pairs(x[:, :1], 1)
    with pytest.raises(ValueError, match="can't be combined"):
        match_pairs(x, 1, order=torch.arange(5)[None], blocked=torch.zeros(1, 5).bool())
    with pytest.raises(ValueError, match="first must be"):
        match_pairs(x, 1, first=2)
