"""Averages after the last block weigh a merged token by the patches it stands for."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any, Never

import pytest
import torch
from torch import Tensor

from tests import models, towers
from tests.adapters.harness import overridden, reduced
from tests.adapters.variants import VARIANTS, adapted

AVERAGING = {
    "clip-classifier": partial(models.clip, classifier=True),
    "siglip-classifier": partial(models.siglip, classifier=True),
    "siglip2-classifier": partial(models.siglip2_vision, classifier=True),
    "dinov2-classifier": partial(towers.dinov2, classifier=True),
    "dinov2-registers-classifier": partial(towers.dinov2, classifier=True, registers=3),
    "vit-avg": partial(models.timm_vit, global_pool="avg"),
    "vit-avg-fc-norm-off": partial(models.timm_vit, global_pool="avg", fc_norm=False),
    "vit-avg-with-prefix": partial(
        models.timm_vit, global_pool="avg", reg_tokens=2, pool_include_prefix=True
    ),
    "vit-avg-registers": partial(
        models.timm_vit, global_pool="avg", class_token=False, reg_tokens=2
    ),
    "vit-avgmax": partial(models.timm_vit, global_pool="avgmax"),
}


def run(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    return output if isinstance(output, torch.Tensor) else output.logits


def inputs_of(name: str) -> Any:
    return models.siglip2_inputs() if name.startswith("siglip2") else models.pixels()


def merge_pairs(prefix: int, hidden: Tensor) -> Tensor:
    """Patches 2k and 2k + 1 become their mean, the last four stay: naive loops, `[B, T, D]`."""
    rows = []
    for sample in hidden:
        tokens = list(sample[:prefix])
        patches = list(sample[prefix:])
        for first in range(0, len(patches) - 4, 2):
            tokens.append((patches[first] + patches[first + 1]) / 2)
        rows.append(torch.stack(tokens + patches[-4:]))
    return torch.stack(rows)


def pair_sizes(prefix: int) -> Tensor:
    merged = (models.PATCHES - 4) // 2
    return torch.tensor([[1.0] * prefix + [2.0] * merged + [1.0] * 4] * 2)


@pytest.mark.parametrize(
    "name",
    ["clip-classifier", "siglip2-classifier", "dinov2-classifier", "vit-avg", "vit-avgmax"],
)
def test_merging_equal_patches_leaves_the_answer(name: str) -> None:
    """Each patch twice, merged into one of size two: the mean over patches is the same.

    The last four patches stay single, so a plain mean would differ.
    """
    model = AVERAGING[name]()
    adapter = adapted(model)
    prefix = adapter.spec().prefix

    def doubled(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, prefix + 1 : -4 : 2] = hidden[:, prefix:-4:2]
        return hidden

    with reduced(adapter, doubled, None):
        expected = run(model, inputs_of(name))
    both = lambda hidden: merge_pairs(prefix, doubled(hidden))  # noqa: E731
    with reduced(adapter, both, pair_sizes(prefix)):
        torch.testing.assert_close(run(model, inputs_of(name)), expected, atol=1e-5, rtol=1e-5)
    if not name.startswith("siglip2"):  # there the model's own mask no longer fits
        with reduced(adapter, both, None):
            assert (run(model, inputs_of(name)) - expected).abs().max() > 1e-3


def weighted_mean(hidden: Tensor, sizes: Tensor, skip: int) -> Tensor:
    means = []
    for tokens, weights in zip(hidden, sizes, strict=True):
        total = torch.zeros_like(tokens[0])
        for token, weight in zip(tokens[skip:], weights[skip:], strict=True):
            total += weight * token
        means.append(total / weights[skip:].sum())
    return torch.stack(means)


@pytest.mark.parametrize("name", [name for name in AVERAGING if name.startswith("vit")])
def test_timm_average_is_weighted_by_size(name: str) -> None:
    model = AVERAGING[name]()
    adapter = adapted(model)
    prefix = adapter.spec().prefix
    seen = []
    handle = model.norm.register_forward_hook(lambda m, a, output: seen.append(output))
    sizes = pair_sizes(prefix)
    with reduced(adapter, partial(merge_pairs, prefix), sizes):
        got = run(model, models.pixels())
    handle.remove()
    skip = 0 if model.pool_include_prefix else prefix
    pooled = weighted_mean(seen[0], sizes, skip)
    if model.global_pool == "avgmax":
        pooled = 0.5 * (seen[0][:, skip:].amax(dim=1) + pooled)
    with torch.no_grad():
        expected = model.head(model.fc_norm(pooled))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["clip-classifier", "siglip-classifier", "siglip2-classifier"])
def test_transformers_classifier_average_is_weighted_by_size(name: str) -> None:
    model = AVERAGING[name]()
    adapter = adapted(model)
    prefix = adapter.spec().prefix
    kept = []

    def reduce(hidden: Tensor) -> Tensor:
        kept.append(merge_pairs(prefix, hidden))
        return kept[-1]

    sizes = pair_sizes(prefix)
    with reduced(adapter, reduce, sizes):
        got = run(model, inputs_of(name))
    hidden = kept[0] if prefix else model.vision_model.post_layernorm(kept[0])
    with torch.no_grad():
        expected = model.classifier(weighted_mean(hidden, sizes, prefix))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("registers", [0, 3])
def test_dinov2_classifiers_read_the_class_token_and_a_weighted_average(registers: int) -> None:
    model = towers.dinov2(classifier=True, registers=registers)
    adapter = adapted(model)
    prefix = adapter.spec().prefix
    kept = []

    def reduce(hidden: Tensor) -> Tensor:
        kept.append(merge_pairs(prefix, hidden))
        return kept[-1]

    sizes = pair_sizes(prefix)
    with reduced(adapter, reduce, sizes):
        got = run(model, models.pixels())
    with torch.no_grad():
        hidden = model.base_model.layernorm(kept[0])
        both = (hidden[:, 0], weighted_mean(hidden, sizes, prefix))
        expected = model.classifier(torch.cat(both, dim=1))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_attention_pool_that_averages_is_weighted_too() -> None:
    pytest.importorskip("timm.layers", reason="timm")
    try:
        model = models.timm_vit(class_token=False, global_pool="prr")
    except AssertionError:
        pytest.skip("this timm has no prr pooling")
    adapter = adapted(model)
    seen, sizes = [], pair_sizes(0)
    norm = model.attn_pool.post_norm
    with reduced(adapter, partial(merge_pairs, 0), sizes):
        own = norm.__dict__["forward"]
        norm.__dict__["forward"] = lambda x: (seen.append(x), own(x))[1]
        got = run(model, models.pixels())
        norm.__dict__["forward"] = own
    expected = model.head(model.fc_norm(weighted_mean(seen[0], sizes, 0)))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [*AVERAGING, "siglip2-vision", "vit", "deit", "vit-map"])
def test_overrides_change_no_bit_without_merging(name: str) -> None:
    others = {
        "siglip2-vision": models.siglip2_vision,
        "vit": models.timm_vit,
        "deit": models.timm_distilled,
        "vit-map": partial(models.timm_vit, class_token=False, global_pool="map"),
    }
    model = {**AVERAGING, **others}[name]()
    adapter = adapted(model)
    call = partial(_first, model, inputs_of(name))
    plain = call()
    with overridden(adapter):
        assert torch.equal(call(), plain)
    ones = torch.ones(2, adapter.spec().prefix + models.PATCHES)
    with reduced(adapter, lambda hidden: hidden, ones):
        assert torch.equal(call(), plain)
    assert torch.equal(call(), plain)


def _first(model: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        output = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    if isinstance(output, torch.Tensor):
        return output
    return output.logits if "logits" in output else output.pooler_output


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_siglip2_pools_fewer_tokens_than_its_mask_is_long(attention: str) -> None:
    model = models.siglip2_vision(attention)
    adapter = adapted(model)
    kept = []

    def drop(hidden: Tensor) -> Tensor:
        kept.append(hidden[:, :10])
        return kept[-1]

    with reduced(adapter, drop, None), torch.no_grad():
        got = model(**models.siglip2_inputs())
    with torch.no_grad():
        expected = model.head(model.post_layernorm(kept[0]))
    assert got.last_hidden_state.shape == (2, 10, models.WIDTH)
    torch.testing.assert_close(got.pooler_output, expected)


def test_the_encoder_inside_a_classifier_gives_unscaled_states_when_called_alone() -> None:
    model = models.clip(classifier=True)
    adapter = adapted(model)
    with reduced(adapter, lambda hidden: hidden[:, :5], torch.tensor([[1.0, 3, 1, 1, 1]] * 2)):
        got = run_states(model.vision_model)
    with reduced(adapter, lambda hidden: hidden[:, :5], None):
        assert torch.equal(got, run_states(model.vision_model))


def run_states(vision: Any) -> Tensor:
    with torch.no_grad():
        return vision(models.pixels()).last_hidden_state


def test_sizes_do_not_outlive_a_call_that_raises() -> None:
    model = AVERAGING["vit-avg"]()
    adapter = adapted(model)
    plain = run(model, models.pixels())

    def fail(hidden: Tensor) -> Never:
        raise ValueError("stop")

    sizes = torch.rand(2, 37) + 0.5
    with reduced(adapter, fail, sizes), pytest.raises(ValueError, match="stop"):
        run(model, models.pixels())
    with overridden(adapter):
        assert torch.equal(run(model, models.pixels()), plain)


def test_threads_keep_their_sizes_apart() -> None:
    model = AVERAGING["vit-avg"]()
    adapter = adapted(model)
    gate = threading.Barrier(2, timeout=30)
    answers, ones = {}, torch.ones(2, 37)
    sizes = {"plain": ones, "weighted": torch.cat((ones[:, :1], torch.rand(2, 36) + 0.5), 1)}

    def meet(block: Any, args: Any, output: Tensor) -> Tensor:
        adapter.weighted_pool(sizes[threading.current_thread().name])
        gate.wait()  # both have announced their sizes before either pools
        return output

    def work() -> None:
        answers[threading.current_thread().name] = run(model, models.pixels())

    expected = {}
    for name, weight in sizes.items():
        with reduced(adapter, lambda hidden: hidden, weight):
            expected[name] = run(model, models.pixels())
    handle = adapter.spec().blocks[-1].register_forward_hook(meet)
    with overridden(adapter):
        threads = [threading.Thread(target=work, name=name) for name in sizes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    handle.remove()
    assert not torch.equal(expected["plain"], expected["weighted"])
    for name in sizes:
        assert torch.equal(answers[name], expected[name])


@pytest.mark.parametrize("name", VARIANTS)
def test_models_that_average_nothing_ignore_sizes(name: str) -> None:
    variant = VARIANTS[name]
    model = variant.build()
    if name.endswith("classifier") or getattr(model, "global_pool", "") == "avg":
        return
    adapter = adapted(model)
    entry, inputs = adapter.spec().entry, variant.inputs()
    plain = _tensor(entry, inputs)
    sizes = torch.rand(2, adapter.spec().prefix + models.PATCHES) + 0.5
    with reduced(adapter, lambda hidden: hidden, sizes):
        assert torch.equal(_tensor(entry, inputs), plain)


def _tensor(entry: Any, inputs: Any) -> Tensor:
    with torch.no_grad():
        output = entry(**inputs) if isinstance(inputs, dict) else entry(inputs)
    if isinstance(output, torch.Tensor):
        return output
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    return output.last_hidden_state if pooled is None else pooled
