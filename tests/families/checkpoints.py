"""Tiny checkpoints on disk: the model of a case with the processor class of its family."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.families.case import Case
from tests.families.processors import RECIPES
from tests.families.tokenizer import tokenizer

# the pictures of a turn in front of its words, as every family here was trained
TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}PICTURE{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}
{%- endif -%}{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}assistant: {%- endif -%}"""


def missing(case: Case) -> str | None:
    """Why no checkpoint of the case can be made here, or None."""
    needed = RECIPES[case.name].needs
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        return f"the processor needs {' and '.join(absent)}"
    return case.missing()


def picture(case: Case) -> str:
    """What stands for a picture in a prompt's text."""
    return RECIPES[case.name].picture


def save(case: Case, folder: Path) -> None:
    """Write a checkpoint folder that transformers' auto classes load."""
    recipe = RECIPES[case.name]
    processor = recipe.processor(case, tokenizer(recipe.special, recipe.named))
    processor.chat_template = TEMPLATE.replace("PICTURE", recipe.picture)
    processor.save_pretrained(folder)
    case.build().save_pretrained(folder)
