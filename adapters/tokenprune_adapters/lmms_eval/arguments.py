"""What stands behind `--model_args`, validated before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tokenprune.errors import DataError, PlanError
from tokenprune.errors.files import read_text, reason
from tokenprune.errors.names import suggestion
from tokenprune.interface.loading import LoadOptions
from tokenprune.lab.models import load_options
from tokenprune.plan import Plan, load_plan

#: lmms-eval hands them over whether or not the user gave them; nothing here depends on them.
IGNORED = ("max_batch_size",)


@dataclass(frozen=True)
class Arguments:
    """The model arguments.

    Attributes:
        pretrained: folder or hub name of a checkpoint in the transformers format.
        plan: plan file or JSON mapping; None runs the model as it is.
        device: default: CUDA if there is a usable device, else the CPU.
        dtype: default: float32 on the CPU, bfloat16 elsewhere.
        batch_size: requests a batch.
        revision: of a checkpoint on the hub.
        trust_remote_code: refused where it is true: models with code of their own have no adapter.
        attn_implementation: of transformers; default: its own choice.
        chat_template: file that replaces the processor's template.
        use_cache: generate with a KV cache.
    """

    pretrained: str
    plan: str | Mapping[str, Any] | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | str = 1
    revision: str = "main"
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    chat_template: str | None = None
    use_cache: bool = True

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Arguments:
        """Arguments as lmms-eval passes them.

        Raises:
            DataError: one is unknown, missing or impossible.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known and name not in IGNORED:
                raise DataError(
                    f"there is no model argument '{name}'.",
                    where="--model_args",
                    remedy=suggestion(name, known),
                )
        if not given.get("pretrained"):
            raise DataError(
                "the checkpoint is missing.",
                where="--model_args",
                remedy="Name it: pretrained=FOLDER_OR_HUB_NAME.",
            )
        if str(given.get("trust_remote_code", False)).lower() not in ("false", "0", "no"):
            raise DataError(
                "code that comes with a checkpoint never runs here.",
                where="--model_args trust_remote_code",
                remedy="Leave it away: no adapter serves models with code of their own.",
            )
        found = cls(**{name: value for name, value in given.items() if name in known})
        found.batch()
        return found

    def batch(self) -> int:
        """The batch size.

        Raises:
            DataError: it is no positive number.
        """
        text = str(self.batch_size)
        if not text.isdecimal() or int(text) < 1:
            raise DataError(
                f"the batch size '{text}' is no positive number.",
                where="--batch_size",
                remedy="Pass a number; automatic batch sizes are not supported.",
            )
        return int(text)

    def options(self) -> LoadOptions:
        """Device and dtype.

        Raises:
            DataError: there is no such device or dtype.
        """
        return load_options(self.device, self.dtype)

    def loaded_plan(self) -> Plan | None:
        """The plan; None if none was given.

        Raises:
            PlanError: it can't be read or doesn't validate.
        """
        given = self.plan
        if isinstance(given, str) and given.lstrip().startswith("{"):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise PlanError(
                    f"it is no valid JSON ({error}).",
                    where="--model_args plan=",
                    remedy="Quote keys and texts doubly, or name a plan file.",
                ) from error
        return load_plan(given) if given else None

    def template(self) -> str | None:
        """The text of the chat template that replaces the processor's.

        Raises:
            DataError: the file can't be read.
        """
        if self.chat_template is None:
            return None
        try:
            return read_text(Path(self.chat_template))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the chat template can't be read ({reason(error)}).", where=self.chat_template
            ) from error
