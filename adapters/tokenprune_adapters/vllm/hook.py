"""What vLLM calls when an engine is configured, in the process that its user sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenprune.errors import PlanError, UnsupportedModelError
from tokenprune_adapters.vllm.grids import ServedGrids
from tokenprune_adapters.vllm.names import (
    CPU_WORKER,
    PLAN,
    PREFIX,
    TESTED,
    TESTED_IN_PYTHON,
    WORDED,
)
from tokenprune_adapters.vllm.rows import ServedRows
from tokenprune_adapters.vllm.served import ServedPlan
from tokenprune_adapters.vllm.serving import served_plan


class PlanHook:
    """Refuses plans and options that can't be served, and logs the counts.

    What vLLM does for the same model under its own name is done first.
    """

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Change of the model's config what vLLM changes itself."""
        vllms_own(model_config).verify_and_update_model_config(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Check plan and options before an engine starts.

        Raises:
            TokenpruneError: what can't be served, and what would be right.
        """
        from vllm import __version__, envs
        from vllm.logger import init_logger
        from vllm.platforms import current_platform

        logger = init_logger("vllm.tokenprune")
        if untested(__version__):
            logger.warning(untested(__version__))
        model = vllm_config.model_config
        vllms_own(model).verify_and_update_config(vllm_config)
        served = served_plan(model.hf_config)
        refuse_other_prompts(in_rust=envs.VLLM_USE_RUST_FRONTEND)
        refuse_options(vllm_config)
        worded = WORDED.get(model.hf_config.model_type)
        refuse_no_llm(
            model.multimodal_config, "image" if isinstance(served, ServedRows) else worded
        )
        if isinstance(served, ServedGrids):
            let_pictures_bring_positions(vllm_config, on_cpu=current_platform.is_cpu())
        if isinstance(served, ServedGrids | ServedRows) and served.inside is not None:
            refuse_narrow_attention(model.multimodal_config)
        logger.info(started(served, model.dtype.itemsize))


@dataclass(frozen=True)
class NoPlanHook:
    """Refuses a plan for a class that isn't ours, which would run without it.

    Attributes:
        own: what vLLM does for the class itself.
    """

    own: Any

    @classmethod
    def around(cls, own: Any) -> NoPlanHook:
        """Around vLLM's hook, or around none; what is one already stays.

        Args:
            own: what vLLM's table holds for the class, None if that is nothing.
        """
        from vllm.model_executor.models.config import VerifyAndUpdateConfig

        return own if isinstance(own, cls) else cls(own or VerifyAndUpdateConfig)

    def verify_and_update_model_config(self, model_config: Any) -> None:
        """What vLLM does."""
        self.own.verify_and_update_model_config(model_config)

    def verify_and_update_config(self, vllm_config: Any) -> None:
        """Refuse a plan, and do what vLLM does.

        Raises:
            PlanError: the config of the model has a plan.
        """
        model = vllm_config.model_config
        if getattr(model.hf_config, PLAN, None) is not None:
            raise PlanError(
                f"'{model.architecture}' would run without the plan: a plan is followed by the "
                f"classes of tokenprune, whose names begin with {PREFIX}.",
                where="--hf-overrides, architectures",
                remedy="Print both options with: tokenprune vllm args PLAN MODEL.",
            )
        self.own.verify_and_update_config(vllm_config)


def vllms_own(model_config: Any) -> Any:
    """The hook that vLLM has itself for the model that is served under a name of ours."""
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    name = model_config.architecture.removeprefix(PREFIX)
    return NoPlanHook.around(MODELS_CONFIG_MAP.get(name)).own


def untested(version: str) -> str:
    """What to beware of with a release of vLLM that wasn't tested; empty for tested ones."""
    if version.startswith(f"{TESTED}."):
        return ""
    tested = f"vLLM {TESTED}"
    if version.startswith(f"{TESTED_IN_PYTHON}."):
        tested = f"the Python code of vLLM {TESTED_IN_PYTHON} on the compiled code of {TESTED}"
    return (
        f"tokenprune was tested with {tested}, and this is {version}: compare its answers "
        "with those of tokenprune.attach before you rely on them."
    )


def refuse_options(vllm_config: Any) -> None:
    """Refuse options of the engine under which selection would be wrong or isn't tested.

    Raises:
        UnsupportedModelError: naming the option.
    """
    multimodal, compilation = (
        vllm_config.model_config.multimodal_config,
        vllm_config.compilation_config,
    )
    parallel, speculative = vllm_config.parallel_config, vllm_config.speculative_config
    wrong = {
        "--tensor-parallel-size": (
            parallel.tensor_parallel_size > 1 and multimodal.mm_encoder_tp_mode != "data",
            "each rank would see its own heads of the tower and keep tokens of its own",
            # vLLM sets the mode back to `weights` for towers that don't have it, as LLaVA's
            "Leave it away, or for a Qwen-VL or GLM add --mm-encoder-tp-mode data.",
        ),
        "--compilation-config compile_mm_encoder": (
            compilation.compile_mm_encoder,
            "a compiled tower isn't tested with plans",
            "Leave it away.",
        ),
        "--compilation-config cudagraph_mm_encoder": (
            compilation.cudagraph_mm_encoder,
            "a captured tower isn't tested with plans",
            "Leave it away.",
        ),
        "--video-pruning-rate": (
            bool(multimodal.video_pruning_rate),
            "vLLM's own pruning of clips isn't tested beside a plan",
            "Leave it away.",
        ),
        "--enable-mm-embeds": (
            bool(multimodal.enable_mm_embeds),
            "embeddings that were computed before bypass the tower and the plan",
            "Leave it away.",
        ),
        "--enable-prompt-embeds": (
            bool(vllm_config.model_config.enable_prompt_embeds),
            "embeddings that were computed before bypass the tower and the plan",
            "Leave it away.",
        ),
        "--enable-tower-connector-lora": (
            bool(vllm_config.lora_config and vllm_config.lora_config.enable_tower_connector_lora),
            "vLLM counts the tower's tokens from those that are left of a picture",
            "Leave it away: adapters of the LLM are served without it.",
        ),
        "--speculative-config": (
            bool(speculative and (speculative.use_eagle() or speculative.uses_draft_model())),
            "a draft model reads pictures too, and vLLM prepares it by the name of its own class",
            "Leave it away, or use method ngram.",
        ),
    }
    for option, (given, why, remedy) in wrong.items():
        if given:
            raise UnsupportedModelError(f"{why}.", where=option, remedy=remedy)


def refuse_other_prompts(*, in_rust: bool) -> None:
    """Refuse a frontend that counts the places of pictures by code of its own.

    Args:
        in_rust: whether prompts are made by vLLM's frontend in Rust.

    Raises:
        UnsupportedModelError: it would count those of whole pictures, and the first would end the
            engine.
    """
    if in_rust:
        raise UnsupportedModelError(
            "vLLM's frontend in Rust makes prompts without the plan.",
            where="VLLM_USE_RUST_FRONTEND",
            remedy="Leave it away, or set it to 0.",
        )


def refuse_no_llm(multimodal: Any, worded: str | None) -> None:
    """Refuse an engine without an LLM for items among whose tokens words travel.

    Args:
        multimodal: the engine's config of pictures and clips.
        worded: the kind of items with words among their tokens; None if there is none.

    Raises:
        UnsupportedModelError: the engine has no embeddings of these words.
    """
    if not multimodal.mm_encoder_only or worded is None:
        return
    if multimodal.get_limit_per_prompt(worded) == 0:
        return
    rest = ", or add --limit-mm-per-prompt.video 0" if worded == "video" else ""
    raise UnsupportedModelError(
        f"words stand among the tokens of this family's {worded}s, and their embeddings are the "
        "LLM's, which isn't there.",
        where="--mm-encoder-only, or an ec_producer",
        remedy=f"Leave it away{rest}.",
    )


def refuse_narrow_attention(multimodal: Any) -> None:
    """Refuse attention in FP8 where a plan acts in a tower, as its blocks attend in their own type.

    Raises:
        UnsupportedModelError: it was asked for.
    """
    if multimodal.mm_encoder_attn_dtype is not None:
        raise UnsupportedModelError(
            "blocks that a plan acts in attend in the model's own type.",
            where="--mm-encoder-attn-dtype",
            remedy="Leave it away, or use pre_llm stages that read features alone.",
        )


def let_pictures_bring_positions(vllm_config: Any, *, on_cpu: bool) -> None:
    """Switch on what vLLM does for pruned clips, as the pictures' positions come with them.

    Raises:
        UnsupportedModelError: ranks that pictures don't reach, or a worker of the user's own
            that couldn't be told.
    """
    parallel = vllm_config.parallel_config
    if parallel.pipeline_parallel_size > 1:
        raise UnsupportedModelError(
            "positions of this family's pictures come with their features, which the first rank "
            "alone sees.",
            where="--pipeline-parallel-size",
            remedy="Leave it away.",
        )
    # any rate above 0 is the switch: what it would do to clips, the plan does instead
    vllm_config.model_config.multimodal_config.video_pruning_rate = 0.5
    if not on_cpu:
        return
    if parallel.worker_cls not in ("auto", CPU_WORKER):
        raise UnsupportedModelError(
            "positions of this family's pictures need a worker of tokenprune's on a CPU.",
            where="--worker-cls",
            remedy="Leave it away.",
        )
    parallel.worker_cls = CPU_WORKER


def started(served: ServedPlan, itemsize: int) -> str:
    """The line that an engine logs at its start, about its largest pictures.

    Args:
        served: the plan on the model.
        itemsize: bytes of a number of the model, of which the KV cache's are taken to be.
    """
    (*_, picture) = [one for one in served.pictures() if one.left is not None]
    saved = (picture.dense - (picture.left or 0)) * served.saved * itemsize / 2**20
    return (
        f"tokenprune: {picture.dense} -> {picture.left} visual tokens per image of "
        f"{picture.size}, about {saved:.1f} MiB of KV cache less for each"
    )
