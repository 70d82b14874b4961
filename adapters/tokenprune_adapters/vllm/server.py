"""vLLM for the command line: options and counts from a model's config, without an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenprune.errors import UnsupportedModelError
from tokenprune.interface.serving import ServedPicture
from tokenprune.plan import load_plan
from tokenprune.plan.dump import plan_data
from tokenprune_adapters.vllm.names import PLAN, PREFIX, SERVED, UNSERVED
from tokenprune_adapters.vllm.serving import served_plan


class VllmServer:
    """vLLM, by the package's own model classes."""

    name = "vllm"

    def arguments(self, plan: Path, model: str) -> list[str]:
        """`--model` and `--hf-overrides` with the served class and the plan written out.

        Raises:
            TokenpruneError: what vLLM can't serve.
        """
        config = _config(model)
        served = served_plan(config, load_plan(plan))
        overrides = {"architectures": [_architecture(config)], PLAN: plan_data(served.plan)}
        return ["--model", model, "--hf-overrides", json.dumps(overrides)]

    def check(self, plan: Path, model: str) -> list[ServedPicture]:
        """The counts of pictures of every size, or of some, and of some clips.

        Raises:
            TokenpruneError: what vLLM can't serve.
        """
        config = _config(model)
        _architecture(config)
        served = served_plan(config, load_plan(plan))
        return served.pictures() + served.clips()


def _config(model: str) -> Any:
    """The model's config, with no code of the checkpoint's.

    Raises:
        UnsupportedModelError: there is none that transformers knows.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"its config can't be read ({str(error).splitlines()[0]})",
            where=model,
            remedy="Give the folder of a checkpoint, or its name on the hub.",
        ) from error


def _architecture(config: Any) -> str:
    own = (config.architectures or ["none"])[0]
    if own not in SERVED:
        why = f": {UNSERVED[config.model_type]}" if config.model_type in UNSERVED else ""
        raise UnsupportedModelError(
            f"'{own}' isn't served with plans{why}.",
            where="config.architectures",
            remedy=f"Served are {', '.join(SERVED)}.",
        )
    return f"{PREFIX}{own}"
