"""A pretrained classifier on photographs; both come from outside of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenprune.interface.loading import LoadOptions
from tokenprune.lab import compare
from tokenprune.plan import load_plan

NAME = "timm:vit_tiny_patch16_224"
PICTURES = 24


@pytest.mark.shared_data
def test_a_real_encoder_keeps_most_answers_on_half_of_its_patches(shared_data: Path) -> None:
    (weights,) = (shared_data / "vit_tiny").glob("*.safetensors")
    pictures = shared_data / "imagenet_sample"
    plans = [
        (f"{name} {keep}", load_plan({"stages": [{"at": "encoder", "strategy": name, **rest}]}))
        for name, keep, rest in (
            ("evoprune", 98, {"keep": 98}),
            ("random", 20, {"keep": 20, "layer": 0}),
        )
    ]
    options = LoadOptions(weights=weights)
    settings = compare.Settings(plans=plans, limit=PICTURES)
    labels = pictures / "labels.csv"
    found = compare.compare(compare.Source(NAME, options, settings, pictures, labels))
    half, few = found.results
    assert found.failures == []
    assert found.dense.accuracy.value > 0.7, "wrong preprocessing would give about a half"
    assert (half.tokens["encoder"], few.tokens["encoder"]) == (98, 20)
    assert half.agreement > 0.8
    assert few.agreement < half.agreement - 0.3, "the choice of tokens must reach the answer"
