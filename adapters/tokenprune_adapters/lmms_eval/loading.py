"""Checkpoint and processor of transformers, from a folder or the hub, with the plan in force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenprune.engine import Attachment, attach
from tokenprune.errors import CheckpointError, TokenpruneError, UnsupportedModelError
from tokenprune.errors.words import first_line
from tokenprune_adapters.lmms_eval.arguments import Arguments
from tokenprune_adapters.loaders.folders import mllm_config


def check_family(arguments: Arguments, families: Sequence[str]) -> None:
    """Refuse checkpoints of another model type, before their weights are loaded.

    Args:
        arguments: which checkpoint.
        families: model types of transformers; any if empty.

    Raises:
        UnsupportedModelError: it is none of them.
        CheckpointError: its configuration can't be read.
    """
    config = _from_pretrained("AutoConfig", arguments)
    if families and config.model_type not in families:
        raise UnsupportedModelError(
            f"the checkpoint is of type '{config.model_type}', not {' or '.join(families)}.",
            where=arguments.pretrained,
            remedy="Use --model tokenprune_hf, which takes every type that has an adapter.",
        )


def load(arguments: Arguments) -> tuple[Any, Any, Attachment | None]:
    """Model in eval mode, processor, and the handle of the plan.

    Raises:
        TokenpruneError: the plan or the checkpoint can't be read, or don't fit each other.
    """
    options, plan = arguments.options(), arguments.loaded_plan()
    processor = _from_pretrained("AutoProcessor", arguments)
    chosen = arguments.attn_implementation
    model = _from_pretrained(
        "AutoModelForImageTextToText",
        arguments,
        config=mllm_config(_from_pretrained("AutoConfig", arguments)),
        dtype=options.dtype,
        use_safetensors=True,
        **({} if chosen is None else {"attn_implementation": chosen}),
    )
    model = model.eval().to(options.device)
    _set_padding(model, processor)
    return model, processor, None if plan is None else attach(model, plan)


def _from_pretrained(kind: str, arguments: Arguments, **more: Any) -> Any:
    import transformers

    try:
        return getattr(transformers, kind).from_pretrained(
            arguments.pretrained,
            revision=arguments.revision,
            # without, transformers asks on the terminal whether code of the folder may run
            trust_remote_code=False,
            **more,
        )
    except TokenpruneError:
        raise
    except Exception as error:
        # hub, json, safetensors and shape problems raise a class of their own each
        raise CheckpointError(
            f"{kind} can't load it ({type(error).__name__}: {first_line(error)}).",
            where=arguments.pretrained,
            remedy="Name a folder or hub checkpoint of an image-text-to-text model.",
        ) from error


def _set_padding(model: Any, processor: Any) -> None:
    tokenizer = processor.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
