"""A real OpenAI server with a plan: eight requests at once, and what it says of their prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm.conftest import REFERENCE

pytest.importorskip("vllm", reason="servers run in vLLM's own environment, see .ci/vllm")


def test_eight_requests_at_once(tmp_path: Path) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from benchmarks.serving import TEMPLATE, ask, ask_all, cache_hits, picture, server

    model = tmp_path / "model"
    LlavaForConditionalGeneration.from_pretrained(REFERENCE, dtype="float32").save_pretrained(model)
    AutoProcessor.from_pretrained(REFERENCE).save_pretrained(model)
    (model / "chat.jinja").write_text(TEMPLATE)
    stages = [{"at": "pre_llm", "strategy": "divprune", "keep": 64}]
    with server(model, stages, tmp_path / "log", longest=512) as address:
        one = ask(address, picture(0))
        found = ask_all(address, [picture(number) for number in range(8)], 8)
        counted = cache_hits(address)
    assert {row["prompt"] for row in found["requests"]} == {one.prompt}
    assert 64 < one.prompt < 64 + 16, "the tokens that are left, and the question"
    assert counted["prompt_tokens_total"] == 9 * one.prompt
    assert "196 -> 64 visual tokens per image of 112 x 112" in (tmp_path / "log").read_text()
