"""The KV cache under both of its names: a user's, and the one that the model itself uses."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
import torch
from tokenprune_adapters.transformers.llm_names import CACHE_NAMES

import tokenprune
from tests.mllm.calls import SHORT, cache_of, greedy, inputs, model
from tests.mllm.plans import COMBINATIONS
from tokenprune.errors import UnsupportedCallError


def names(of: Any) -> list[str]:
    """The names that a user may give in the installed release; the older one is deprecated."""
    taken = inspect.signature(type(of).forward).parameters
    return [*CACHE_NAMES] if CACHE_NAMES[0] in taken else [CACHE_NAMES[1]]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("stages", ["pre_llm", "decoder", "all"])
def test_decoding_by_hand_is_the_same_under_every_name(stages: str) -> None:
    of, call = model(), inputs(SHORT)
    found = []
    for name in names(of):
        with tokenprune.attach(of, COMBINATIONS[stages]), torch.no_grad():
            out, steps = of(**call, use_cache=True), []
            for token in (7, 8, 9):
                cache = {name: cache_of(out)}
                out = of(input_ids=torch.tensor([[token]]), **cache, use_cache=True)
                steps.append(out.logits)
        found.append(torch.cat(steps, dim=1))
    with tokenprune.attach(of, COMBINATIONS[stages]), torch.no_grad():
        assert cache_of(of(**call, use_cache=True)).get_seq_length(3) < call["input_ids"].shape[1]
        longer = {key: call[key] for key in ("pixel_values",)}
        ids = torch.cat((call["input_ids"], torch.tensor([[7, 8, 9]])), dim=1)
        whole = of(input_ids=ids, **longer).logits[:, -3:]
    assert all(torch.equal(found[0], other) for other in found)
    assert found[0].shape == whole.shape


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_refusals_name_the_argument_that_was_given() -> None:
    of, call = model(), inputs(SHORT)
    for name in names(of):
        with tokenprune.attach(of, COMBINATIONS["all"]), torch.no_grad():
            cache = cache_of(of(**call, use_cache=True))
        with (
            tokenprune.attach(of, COMBINATIONS["all"]),
            torch.no_grad(),
            pytest.raises(UnsupportedCallError, match="another plan") as caught,
        ):
            of(input_ids=call["input_ids"][:, -1:], **{name: cache})
        assert caught.value.where == names(of)[0]  # what the model's own forward renames it to


@pytest.mark.parametrize("cached", [True, False])
def test_nothing_warns_of_a_name_that_the_user_did_not_give(
    cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        logging.Logger, "warning_once", lambda _, text, *__: said.append(text), raising=False
    )
    of = model()
    with tokenprune.attach(of, COMBINATIONS["all"]):
        greedy(of, inputs(SHORT), use_cache=cached)
    assert [text for text in said if CACHE_NAMES[1] in text] == []
