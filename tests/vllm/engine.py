"""Engines of vLLM in a process of their own: `python -m tests.vllm.engine REQUESTS ANSWERS`.

A request is a plan (or none), options of the engine, and for each prompt the numbers of held-out
samples, or a text with pictures (seed, height, width), clips (seed, frames, height, width and
frames a second) and sounds (seed, samples) of random noise and options of the processor; the answer
holds what was generated, or the error that ended the engine's start.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "INFO",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
OPTIONS = {
    "enforce_eager": True,
    "max_model_len": 512,
    "dtype": "float32",
    "gpu_memory_utilization": 0.15,
    "max_num_seqs": 8,
    "limit_mm_per_prompt": {"image": 2},
}
NEW_TOKENS = 3

Asked = list[int] | dict[str, Any]
"""One prompt of a request."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """One engine from start to end."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    overrides = {}
    config = json.loads((Path(request["model"]) / "config.json").read_text())
    if config.get("text_config", {}).get("model_type", "").startswith("qwen3_5"):
        from tests.vllm.linear_attention import in_float32

        in_float32()
    if request["plan"] is not None:
        served = [f"Tokenprune{name}" for name in config["architectures"]]
        overrides = {"architectures": served, "tokenprune_plan": request["plan"]}
    try:
        llm = LLM(request["model"], hf_overrides=overrides, **{**OPTIONS, **request["options"]})
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}
    try:
        return _generated(llm, request)
    finally:
        del llm
        cleanup_dist_env_and_memory()
        gc.collect()


def _generated(llm: Any, request: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    passes: list[int] = []
    if request.get("count"):
        llm.apply_model(lambda model: _counted(model, passes))
    prompts = [prompt_of(asked) for asked in request["prompts"]]
    found = llm.generate(prompts, greedy, use_tqdm=False)
    answers: dict[str, Any] = {
        "ids": _ids(found),
        "lengths": [len(one.prompt_token_ids) for one in found],
        "alone": [_refusal(llm, prompt_of(asked)) for asked in request.get("alone", ())],
    }
    if request.get("again") or answers["alone"]:
        again = llm.generate(prompts, greedy, use_tqdm=False)
        answers["again"], answers["cached"] = _ids(again), sum(o.num_cached_tokens for o in again)
    return {**answers, "passes": passes}


def _ids(found: Any) -> list[list[int]]:
    return [list(one.outputs[0].token_ids) for one in found]


def _refusal(llm: Any, prompt: dict[str, Any]) -> str:
    """What a prompt by itself is refused with."""
    try:
        llm.generate([prompt], use_tqdm=False)
    except ValueError as error:
        return str(error)
    return ""


def _counted(model: Any, passes: list[int]) -> None:
    """Note how many pictures, tiles or patches each pass of the tower sees."""
    names = {name.rpartition(".")[2]: module for name, module in model.named_modules()}
    tower = next(names[one] for one in ("visual", "vision_tower", "vision_model") if one in names)

    def seen(_: Any, args: Any, named: dict[str, Any]) -> None:
        passes.append(len(args[0] if args else named["pixel_values"]))

    tower.register_forward_pre_hook(seen, with_kwargs=True)


def prompt_of(asked: Asked) -> dict[str, Any]:
    """The text and its pictures; of samples the question of the first about the pictures of all."""
    from tokenprune.reference import heldout_samples

    if isinstance(asked, dict):
        pictures = [noise(*one) for one in asked.get("pictures", ())]
        clips = [clip(*one) for one in asked.get("clips", ())]
        sounds = [sound(*one) for one in asked.get("sounds", ())]
        shown = {"image": pictures, "video": clips, "audio": sounds}
        return {
            "prompt": asked["text"],
            "multi_modal_data": {kind: items for kind, items in shown.items() if items},
            "mm_processor_kwargs": asked.get("options", {}),
        }
    numbers = asked
    samples = heldout_samples(max(numbers) + 1)
    pictures = [samples[number].image for number in numbers]
    text = "<image> " * len(numbers) + samples[numbers[0]].question
    return {"prompt": text, "multi_modal_data": {"image": pictures}}


def noise(seed: int, height: int, width: int) -> Any:
    """A picture whose pixels are drawn one by one."""
    import numpy as np
    from PIL import Image

    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def sound(seed: int, samples: int) -> tuple[Any, int]:
    """Noise at the rate of the feature extractor, in samples a second."""
    import numpy as np

    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32), 16_000


def clip(seed: int, frames: int, height: int, width: int, fps: float) -> tuple[Any, dict[str, Any]]:
    """Frames of noise, and when each of them is."""
    import numpy as np

    drawn = [np.asarray(noise(100 * seed + number, height, width)) for number in range(frames)]
    told = {
        "fps": fps,
        "duration": frames / fps,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "do_sample_frames": False,
    }
    return np.stack(drawn), told


def main(requests: str, answers: str) -> None:
    """Answer the requests of a file, one engine after the other, into another file."""
    os.environ.update(ENVIRONMENT)
    found = [answer(one) for one in json.loads(Path(requests).read_text())]
    Path(answers).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
