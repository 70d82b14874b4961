"""Tiny checkpoints on disk: the model of a case with the processor class of its family."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.families.case import Case
from tests.families.processors import RECIPES
from tests.families.processors.common import Recipe
from tests.families.tokenizer import tokenizer

# the pictures and clips of a turn stand in front of its words
TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] if part['type'] in PARTS -%}
{{ PARTS[part['type']] }}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}assistant: {%- endif -%}"""


def missing(case: Case, scene: str = "one") -> str | None:
    """Why no checkpoint of the case can be made here, or can't run a scene; or None."""
    needed = RECIPES[case.name].needs
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        return f"the processor needs {' and '.join(absent)}"
    return case.missing(scene)


def template(recipe: Recipe) -> str:
    """Chat template with what stands for pictures and clips."""
    return TEMPLATE.replace("PARTS", repr({"image": recipe.picture, "video": recipe.clip}))


def save(case: Case, folder: Path) -> None:
    """Write a checkpoint folder that transformers' auto classes load."""
    recipe = RECIPES[case.name]
    processor = recipe.processor(case, tokenizer(recipe.special, recipe.named))
    processor.chat_template = template(recipe)
    processor.save_pretrained(folder)
    case.build().save_pretrained(folder)
