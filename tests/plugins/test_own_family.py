"""A family of custom code is held to the contract as those of a library are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.plugins import newcomer
from tests.plugins.own_family import IMAGE, OwnAdapter, tiny
from tokenprune.errors import UnsupportedModelError
from tokenprune.plugins.host import register_plugin
from tokenprune.testing import check_mllm_adapter


def prompt(pictures: int, words: int) -> dict[str, Tensor]:
    ids = [1, *[IMAGE] * (9 * pictures), *range(5, 5 + words)]
    pixels = torch.randn(pictures, 3, 24, 24, generator=torch.Generator().manual_seed(words))
    mask = torch.ones(1, len(ids), dtype=torch.long)
    return {"input_ids": torch.tensor([ids]), "attention_mask": mask, "pixels": pixels}


def test_tensors_and_a_config_of_other_names_are_served() -> None:
    with register_plugin(newcomer, "newcomer"):
        found = check_mllm_adapter(OwnAdapter, tiny(), [prompt(1, 4), prompt(2, 7)])
    found.require()
    assert {row.status for row in found.rows} == {"pass"}


def test_blocks_that_no_config_counts_are_to_be_named() -> None:
    own = OwnAdapter.family.pictures["image"]
    assert own.tower is not None
    with pytest.raises(UnsupportedModelError, match=r"how many blocks .* Followed\(blocks="):
        replace(own.tower, blocks=None).read(tiny().model)
