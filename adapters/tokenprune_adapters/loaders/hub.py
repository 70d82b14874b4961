"""Checkpoints by their names on the Hugging Face hub, as folders of its cache."""

from __future__ import annotations

import re
from pathlib import Path

from tokenprune.errors import CheckpointError
from tokenprune.errors.words import first_line

NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""`owner/name`, or `owner/name@revision`."""
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Config, weights, processor and tokenizer; neither code nor pickled weights."""


def is_hub_name(target: str) -> bool:
    """Whether something can only be a name on the hub: no folder, and none around it."""
    folder = Path(target)
    return NAME.fullmatch(target) is not None and not folder.exists() and not folder.parent.exists()


def checkpoint_folder(target: str) -> Path:
    """A folder as it is, or that of a name on the hub.

    Raises:
        CheckpointError: a name that can't be had.
    """
    return hub_folder(target) if is_hub_name(target) else Path(target)


def hub_folder(name: str) -> Path:
    """The checkpoint's folder in the hub's cache, fetched if it isn't there.

    Args:
        name: `owner/name`, with `@revision` for one commit, branch or tag.

    Raises:
        CheckpointError: it can't be had.
    """
    import huggingface_hub

    owned, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            owned,
            revision=revision or None,
            allow_patterns=list(FILES),
            # without this, some releases list even a cached commit's files over the network
            local_files_only=huggingface_hub.constants.HF_HUB_OFFLINE,
        )
    except Exception as error:
        # absent names, closed ones, no network and a full disk raise a class of their own each
        raise CheckpointError(
            f"there is no such folder, and the hub's checkpoint can't be had "
            f"({type(error).__name__}: {first_line(error)}).",
            where=name,
            remedy="Pass a local folder, or a name on the hub that this machine can reach.",
        ) from error
    return Path(found)
