"""vLLM's OpenAI server, dense against plans: time to first token, throughput, prompt tokens.

    python -m benchmarks.serving --out benchmarks/records/serving.json

Runs in vLLM's environment (see `.ci/vllm`). The model is a LLaVA of 162 M random weights; times
depend on shapes alone, and say nothing about a 7B model, whose tower is a smaller share. All
servers are up at once, on the loopback address, and take turns round by round, so that a drift of
the machine falls on all alike. Every server ends with the run.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.models import language, llava
from benchmarks.towers import sizes
from tokenprune.lab.measure.environment import describe_environment

HERE, NEW_TOKENS = "127.0.0.1", 8
START_SECONDS, ASK_SECONDS = 400, 120

PLANS: dict[str, list[dict[str, Any]]] = {
    "dense": [],
    "evoprune 128 in the encoder": [{"at": "encoder", "strategy": "evoprune", "keep": 128}],
    "divprune 64 before the LLM": [{"at": "pre_llm", "strategy": "divprune", "keep": 64}],
}

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}

#: A prompt without roles, as the reference model's tokenizer knows no words for them.
TEMPLATE = (
    "{% for m in messages %}{% for c in m['content'] %}"
    "{{ '<image> ' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endfor %}"
)


@dataclass(frozen=True)
class Answered:
    """One request: seconds to the first token and to the end, and the prompt's tokens."""

    first: float
    whole: float
    prompt: int


def save_model(folder: Path) -> None:
    """A random LLaVA with a CLIP tower of 576 patches, and the reference model's tokenizer."""
    from transformers import AutoProcessor

    from tokenprune.reference import reference_model_path

    processor = AutoProcessor.from_pretrained(reference_model_path())
    words = len(processor.tokenizer)
    text = language(1024, 2816, 12, 16, vocabulary=words, longest=1024)
    token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    llava(sizes(336, 14, 256, 9, 4, 1024), text, token).save_pretrained(folder)
    processor.patch_size = 14
    size = {"height": 336, "width": 336}
    processor.image_processor.size, processor.image_processor.crop_size = size, size
    processor.save_pretrained(folder)
    (folder / "chat.jinja").write_text(TEMPLATE)


@contextmanager
def server(
    model: Path, stages: list[dict[str, Any]], log: Path, *, longest: int = 1024
) -> Iterator[str]:
    """A server with a plan, from its start to its end; gives its address."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        port = free.getsockname()[1]
    overrides = {
        "architectures": ["TokenpruneLlavaForConditionalGeneration"],
        "tokenprune_plan": {"positions": "compact", "stages": stages},
    }
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model),
        "--served-model-name", "served", "--host", HERE, "--port", str(port), "--enforce-eager",
        "--dtype", "float32", "--max-model-len", str(longest), "--max-num-seqs", "8",
        "--gpu-memory-utilization", "0.15", "--limit-mm-per-prompt", '{"image": 1}',
        "--chat-template", str(model / "chat.jinja"), "--hf-overrides", json.dumps(overrides),
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env={**os.environ, **ENVIRONMENT}, stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
        address = f"http://{HERE}:{port}"
        try:
            _wait(process, address, log)
            yield address
        finally:
            with suppress(ProcessLookupError):  # it ended by itself, which its log explains
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    raise RuntimeError(f"the server didn't start in {START_SECONDS} s; see {log}")


def picture(seed: int) -> str:
    """A picture of noise as a data URI; equal seeds give equal pictures."""
    from PIL import Image

    noise = random.Random(seed).randbytes(42 * 42 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (42, 42), noise).resize((336, 336)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(address: str, image: str) -> Answered:
    """One streamed chat completion."""
    content = [
        {"type": "image_url", "image_url": {"url": image}},
        {"type": "text", "text": "what is the shape ?"},
    ]
    body = {
        "model": "served", "messages": [{"role": "user", "content": content}], "stream": True,
        "max_tokens": NEW_TOKENS, "ignore_eos": True, "temperature": 0,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    request = urllib.request.Request(
        f"{address}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    start, first, prompt = time.perf_counter(), 0.0, 0
    with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if chunk["choices"] and not first:
                first = time.perf_counter() - start
            if chunk.get("usage"):
                prompt = chunk["usage"]["prompt_tokens"]
    return Answered(first, time.perf_counter() - start, prompt)


def ask_all(address: str, images: Sequence[str], at_once: int) -> dict[str, Any]:
    """So many requests at once, until all pictures were asked about."""
    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(lambda image: ask(address, image), images))
    seconds = time.perf_counter() - start
    return {"requests": [asdict(one) for one in found], "seconds": seconds}


def cache_hits(address: str) -> dict[str, float]:
    """Hits of the prefix cache and of the cache of pictures, as the server counts them."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for name in ("prefix_cache_hits_total", "mm_cache_hits_total", "prompt_tokens_total"):
        mine = [line for line in lines if line.startswith(f"vllm:{name}")]
        found[name] = sum(float(line.rsplit(" ", 1)[1]) for line in mine)
    return found


def run(rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """All servers in turns: unique pictures one at a time and eight at once, then repeated ones."""
    model = scratch / "model"
    save_model(model)
    rows: list[dict[str, Any]] = [
        {"plan": name, "stages": stages, "runs": []} for name, stages in PLANS.items()
    ]
    with ExitStack() as up:
        addresses = [
            up.enter_context(server(model, row["stages"], scratch / f"{number}.log"))
            for number, row in enumerate(rows)
        ]
        for address in addresses:
            ask(address, picture(0))  # what is made at the first call
        seed = 1
        for number in range(rounds):
            kinds = {
                "one at a time": (1, [picture(seed + n) for n in range(4)]),
                "eight at once": (8, [picture(seed + 4 + n) for n in range(8)]),
                "eight at once, repeated": (8, [picture(seed + 4)] * 8),
            }
            seed += 12
            for kind, (at_once, images) in kinds.items():
                order = list(range(len(rows)))
                random.Random(seed).shuffle(order)
                for place in order:
                    before = cache_hits(addresses[place])
                    found = ask_all(addresses[place], images, at_once)
                    after = cache_hits(addresses[place])
                    hits = {name: after[name] - before[name] for name in after}
                    mine = {"round": number, "kind": kind, "load": os.getloadavg()[0], **found}
                    rows[place]["runs"].append({**mine, "counted": hits})
    return [summary(row) for row in rows]


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Medians by kind of traffic, beside every single run."""
    kinds: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(run["kind"] for run in row["runs"]):
        runs = [run for run in row["runs"] if run["kind"] == kind]
        asked = [one for run in runs for one in run["requests"]]
        kinds[kind] = {
            "ttft": statistics.median(one["first"] for one in asked),
            "end_to_end": statistics.median(one["whole"] for one in asked),
            "requests_per_second": statistics.median(
                len(run["requests"]) / run["seconds"] for run in runs
            ),
            "prompt_tokens": statistics.median(one["prompt"] for one in asked),
            "prefix_cache_hits": sum(run["counted"]["prefix_cache_hits_total"] for run in runs),
        }
    return {**row, "kinds": kinds}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("serving.json"))
    given = parser.parse_args()
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as scratch:
        rows = run(given.rounds, Path(scratch))
    record = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": describe_environment(),
        "load": {"before": before, "after": os.getloadavg()},
        "rounds": given.rounds,
        "new_tokens": NEW_TOKENS,
        "rows": rows,
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        for kind, found in row["kinds"].items():
            print(row["plan"], "|", kind, "|", {k: round(v, 3) for k, v in found.items()})


if __name__ == "__main__":
    main()
