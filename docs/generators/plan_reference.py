"""The plan file reference, from the plan models and the strategies that are registered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tokenprune.interface.placement import default_schedules, own_layers
from tokenprune.interface.strategy import PruningStrategy, placement, places
from tokenprune.plan import Average, PerTile, Plan, ScheduleSpec, StagePlan, Total
from tokenprune.plugins.host import host

INTRO = """\
# Plan files

<!-- written by docs/generate.py from the code; edit the models instead -->

A plan says which visual tokens are removed where. It is a YAML file, a mapping in Python, or a
`tokenprune.Plan`; `tokenprune validate PLAN` checks one and `tokenprune schema` prints the JSON
Schema for editors. Keys that don't exist are errors which name the nearest right one.

```yaml
schema_version: 1
stages:
  - at: encoder
    strategy: evoprune
    keep: 128
    schedule: skip
    params: {critical_token_ratio: 0.25}
  - at: decoder
    strategy: fastv
    layer: 2
    keep: 0.5
```

More of them lie in `examples/plans`.
"""
FILES = """\
## Extending and overriding

A relative path in `params`, such as that of a checkpoint, means a file beside the plan, or else one
in the working directory.

`extends: other.yaml`, in a file, starts from another file, relative to this one. Mappings are
merged key by key, lists (`stages` too) are replaced. Plans that extend each other in a circle are
refused. Dotted overrides come last:

```python
import tokenprune

tokenprune.load_plan("plan.yaml", overrides=["stages.0.keep=64", "stages.0.params.tau=0.5"])
```

`tokenprune.dump_plan(plan)` writes a plan without its defaults; loading that gives the same plan.
"""
BUDGETS = """\
## Budgets

`keep` is what leaves a stage, per image.

| form | meaning |
| --- | --- |
| `128` | tokens; more than arrive is an error that names the nearest feasible number |
| `0.25` | ratio r in (0, 1] of the N tokens that arrive *at this stage*: floor(r N), at least 1 |
| `{per_tile: 64}` | tokens for every tile, see below |
| `{total: 640}` | `pre_llm` and `decoder`: tokens for all images of a prompt together, see below |
| `{average: 192}` | `pre_llm` and `decoder`: the mean over all layers of the LLM, see below |

Note that `1` is one token and `1.0` is all of them.

**Tiles.** LLaVA-NeXT, LLaVA-OneVision, InternVL, Idefics3, SmolVLM, Aya Vision, Cohere2 Vision,
Llama 4 and PerceptionLM show a picture to their encoder in several pieces: an overview and
tiles. `{per_tile: 64}` grows with the picture: one that is seen in five pieces keeps 320
tokens. Behind the encoder a strategy may spend them anywhere in the picture, and a picture that
has fewer, as padding was cut off its tiles, keeps all. Inside the encoder every piece keeps
exactly so many, which is what `keep: 64` means there too. A picture that is seen whole, of
whatever size, is one tile, and so is a frame of a video.

**Totals.** `{total: 640}` is for prompts with several images whose sizes aren't known before: a
prompt keeps 640 visual tokens at most, however many its images are; one that has fewer keeps all.
At `decoder` the strategy chooses among all of the prompt's tokens. At `pre_llm` it is asked image
by image, so the total is divided first, in proportion to the tokens of the images at that stage
(ours): largest remainders, the first of equal ones, at least one token each. A video is one image
there, with all of its frames.

Totals are refused at `encoder`, where an image is seen without the others; at `pre_llm` for a
prompt with images and videos, which reach the LLM one kind after the other; for fewer tokens than
images; and by `integrations.count`, `select` and `encoder`, which are asked about
one image.

**Average budgets.** With one stage before layer K of L, K layers see all N tokens and the others
k: the solver takes the largest k with (K N + (L - K) k) / L not above the average. So FastV's
"50 % at layer 2" of 576 tokens and 32 layers is an average of 306, and an average of 171 keeps 144.
Several stages with an average share one budget, and each keeps the same ratio of what arrives (our
choice); stages with a fixed budget come before them. An average that no k reaches is refused with
the nearest one.

**Several layers.** A strategy may act in front of several layers by itself, as `pyramiddrop` does;
then one stage stands for all of them. Without `keep`, its own shares hold. An average is shared as
above. A number of tokens or a ratio is what the last of the layers sees, and those before it go a
part of the way (on a logarithmic scale, in the proportions of the strategy's own shares: ours).

The last `pre_llm` stage may keep an average too. Then the decoder stages say tokens or ratios, and
the solver takes the most tokens that may enter the LLM: with a third (0.334) kept from layer 16 of
32 on, an average of 64 is 96 tokens, then 32 (VScan's table). Decoder stages that set their own
budget are left out of the sum, as they only lower the mean. It is solved for one image; where a
prompt has several, a ratio in the decoder is rounded down once for all of them, so the mean may
come out up to one token an image higher.
"""
TEXT = """\
## Text tokens

No plan touches them unless a `decoder` stage says `keep_text`:

```yaml
stages:
  - at: decoder
    strategy: fastv
    layer: 2
    keep: 0.25
    keep_text: 0.5
```

It counts *prunable* text tokens, prompt by prompt. Never prunable are placeholders, the first, last
and padding tokens that the model's configs name, the last prompt token, what is generated, labelled
tokens, and all text of prompts without images. Other special tokens, such as those of a chat
template, are known to the tokenizer only and count as text. A number of tokens is a ceiling: a
prompt with fewer keeps them all. Reports show what was measured, per prompt, as `text[2]`.
"""
SCHEDULES = """\
## Schedules

An `encoder` stage spreads its removals over the blocks of `layers`. They always sum to what has to
go, exactly.

| `schedule` | blocks that act | removals |
| --- | --- | --- |
| `mean` | all | the same in each |
| `skip` | the first, third, fifth, ... (parity: ours) | the same in each |
| `first`, `{name: first, blocks: N}` | the first N; half of them by default | the same in each |
| `last`, `{name: last, blocks: N}` | the last N; half of them by default | the same in each |
| `increasing`, `{name: increasing, power: a}` | all | proportional to l^a, l = 1..L (form: ours) |
| `decreasing`, `{name: decreasing, power: a}` | all | the same, reversed |
| `[0, 20, 0, 20]` | those listed, one number a block | as listed |

The names and the defaults `a = 1` and half of the blocks are EvoPrune's (arXiv 2603.03681,
appendix A).

Strategies that merge by bipartite matching remove at most half of the tokens of a block, so a
constant number doesn't always arrive. The solver then takes the *capped constant*: the smallest
number c such that removing min(c, half of the tokens, what is still too much) in every block ends
at the target (ours; equal to the constant where that is feasible, the remainder coming off the last
block). `increasing` and `decreasing` move what a block can't take to later blocks and, where these
are full, to earlier ones. A target that even halving everywhere doesn't reach is refused with the
nearest feasible one.
"""


def plan_reference() -> str:
    """The page, in Markdown."""
    parts = [
        INTRO,
        "## Keys of a plan\n",
        _table(Plan),
        "## Keys of a stage\n",
        _table(StagePlan),
        BUDGETS,
        _table(PerTile),
        _table(Total),
        _table(Average),
        TEXT,
        SCHEDULES,
        _table(ScheduleSpec),
        FILES,
        "## Parameters of the strategies\n",
        "What may stand under `params`. Defaults marked * are ours and not the paper's.\n",
        *(
            part
            for _, strategy in sorted(host().strategies.items())
            for part in _strategy(strategy)
        ),
    ]
    return "\n".join(parts)


def _table(model: type[BaseModel]) -> str:
    schema = Plan.model_json_schema()
    definition = schema if model is Plan else schema["$defs"][model.__name__]
    rows = [
        _row(f"`{name}`", kind, default, text)
        for name, kind, default, text in _fields(definition, schema["$defs"])
        if name != "extends"
    ]
    return "\n".join([*_HEAD, *rows, ""])


_HEAD = ("| key | type | default | meaning |", "| --- | --- | --- | --- |")


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _fields(
    definition: dict[str, Any], known: dict[str, Any]
) -> Iterator[tuple[str, str, str, str]]:
    for name, field in definition.get("properties", {}).items():
        required = name in definition.get("required", ())
        default = "required" if required else f"`{_plain(field.get('default'))}`"
        if not required and "default" not in field:
            default = ""
        yield name, _kind(field, known), default, field.get("description", "")


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(value)


def _kind(field: dict[str, Any], known: dict[str, Any]) -> str:
    options = field.get("anyOf") or field.get("oneOf")
    if options:
        kinds = [_kind(option, known) for option in options]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if "$ref" in field:
        return _kind(known.get(field["$ref"].rpartition("/")[2], {"type": "mapping"}), known)
    if "enum" in field:
        return ", ".join(f"`{_plain(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{_plain(field['const'])}`"
    kind = {"object": "mapping", "array": "list"}.get(field.get("type", ""), field.get("type", ""))
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[key]:g}" for key, sign in signs.items() if key in field]
    return " ".join([kind or "any", ", ".join(bounds)]).strip()


def _strategy(strategy: type[PruningStrategy[Any]]) -> Iterator[str]:
    yield f"### {strategy.name}\n"
    yield f"{strategy.about.summary}\n"
    yield f"At: {', '.join(f'`{stage}`' for stage in places(strategy))}. {_home(strategy)}\n"
    schema = strategy.Params.model_json_schema()
    fields = list(_fields(schema, schema.get("$defs", {})))
    if not fields:
        yield "No parameters.\n"
        return
    ours = strategy.about.ours or {}
    rows = [
        _row(f"`{name}`", kind, default + (" *" if name in ours else ""), text)
        for name, kind, default, text in fields
    ]
    yield "\n".join([*_HEAD, *rows, ""])


def _home(strategy: type[PruningStrategy[Any]]) -> str:
    said = [f"Default schedule: `{name}`." for name in default_schedules(strategy.stages)]
    said += [f"Default layer: {layer}." for layer in own_layers(strategy.stages)]
    if "decoder" in places(strategy) and placement(strategy, "decoder").text:
        said.append("Can prune text too (`keep_text`).")
    return " ".join(said)
