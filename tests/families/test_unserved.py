"""Every multimodal LLM of the installed transformers is served, or the matrix says why it isn't."""

from __future__ import annotations

import pytest
from tokenprune_adapters.transformers.unserved import UNSERVED
from transformers.models.auto import modeling_auto

from tokenprune.plugins.host import host

LISTS = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")
"""What the library takes for multimodal LLMs; older releases have the first one only."""
PARTS = {"qwen2_5_omni": "thinker", "qwen3_omni_moe": "thinker"}
"""Families of which a part is attached to, by the attribute that holds it."""


def listed() -> dict[str, set[str]]:
    """Names of the classes of every multimodal LLM, by the family's."""
    found = dict[str, set[str]]()
    for name in LISTS:
        for family, classes in getattr(modeling_auto, name, {}).items():
            several = (classes,) if isinstance(classes, str) else classes
            found.setdefault(family, set()).update(several)
    return found


@pytest.mark.versions
def test_every_multimodal_llm_is_served_or_said_not_to_be() -> None:
    claimed = {claim.rpartition(".")[2] for one in host().mllms.values() for claim in one.claims}
    said = {family for families in UNSERVED.values() for family in families}
    known = listed()
    assert len(known) > 50
    served = {family for family, classes in known.items() if classes & claimed} | PARTS.keys()
    assert not served & said
    assert sorted(known.keys() - served - said) == []


def test_a_family_has_one_reason() -> None:
    named = [family for families in UNSERVED.values() for family in families]
    assert len(named) == len(set(named))
