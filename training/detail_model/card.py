"""Write the detail model's card from its record: `python -m training.detail_model.card`."""

from __future__ import annotations

from tokenprune.reference import DETAIL_TYPES, detail_model_path
from tokenprune.reference.detail_heldout import HELDOUT_DETAILS
from tokenprune.reference.detail_scene import DETAIL_CANVAS
from training.detail_model.evaluate import RECORD
from training.detail_model.model import PATCHES
from training.detail_model.vocab import WORDS
from training.reference_model.card import accuracy_table, kept_tokens, stage_rows
from training.reference_model.model import FEATURE_LAYER, LM_BLOCKS, TOWER_BLOCKS, WIDTH
from training.reference_model.vocab import SPECIAL
from training.shared.writing import PICTURE_INPUTS, Record, card_command, usage_example

_HEAD = """# tokenprune detail model

A small LLaVA (`LlavaForConditionalGeneration`) for questions that need detail: small digits to
read, counts up to nine, places to a tenth of the picture. It was trained on a CPU, on pictures that
a program draws, starting from the [small reference model](../weights/README.md), and exists to
compare pruning methods where no large model is at hand. It knows {words} words and one kind of
picture.

- CLIP tower: {tower_blocks} blocks, {width} wide, {patches} patches of 8 x 8 pixels and CLS
  ({canvas} x {canvas} pictures); the language model reads feature layer {layer} without CLS.
- Llama: {lm_blocks} blocks, {width} wide. Two-layer projector. fp16 safetensors, {megabytes} MB.
- Licence: that of the project. All data are generated; no outside picture, text or weight is in it.

{usage}

## Data

Muted, textured backgrounds with about 22 items, each 10 to 14 pixels large, so one to four patches:
two to four groups of three to nine objects of one shape in one to three colours, two or three lone
objects of other shapes, and two to four digits of different colours. Nothing overlaps. Six types of
questions with one-word answers: `colour` (of a lone shape), `count` (of a shape, or of a shape in a
colour: zero to nine, a scene's possible answers equally often), `exist` (for a "no", colour and
shape are there, but apart), `digit` (which one has this colour), `column` and `row` (in which of
ten a lone shape stands; not asked within two pixels of a border).

The held-out set has {pictures} pictures, drawn from its own seed with its own textures whenever it
is needed; the numbers below are of its first {images}, with {questions} questions.

## Training

| stage | steps | pictures | questions a picture | pictures/s | minutes |
| --- | --- | --- | --- | --- | --- |
{stages}

One thread of a machine that others used too, bfloat16 arithmetic on fp32 weights, Muon for the
matrices and AdamW for the rest. `tower`, `sides`, `glyphs` and `places` train the tower on dense
labels: kind, colour and centre of the item on every patch, whether the patch holds that centre,
what stands beside the item on every side, and in `places` its column and row; at CLS, what is in
the picture and how often. `sides` and `glyphs` give neighbours more weight. The others train
projector and language model on the frozen tower, whose patches were never told a number: the
language model has to count. Most of their steps show it 48 to 400 tokens (later 160), the patch
with the centre of every item among them, numbered anew in a third of these steps. No merged token
and no pruning method's score is used.
"""


def limits(record: Record) -> str:
    """What the model is not good for, with the weakest types of the record."""
    dense = record["dense"]
    order = sorted(DETAIL_TYPES, key=lambda name: float(dense[name]))
    named = ", ".join(f"`{name}` ({dense[name]:.1f} %)" for name in order[:3])
    return f"""## Not good for

- What no merged token can lose: about three quarters of the patches are background, so half of the
  tokens and merging to a quarter cost little but counts (`benchmarks/records/detail.json`).
- Counting to the last: `count` reaches {dense["count"]:.1f} %, where all types together reach
  {dense["all"]:.1f} %.
- Any other picture or wording. Unknown words become `<unk>`, and answers are single words.
- Conclusions about absolute accuracy of large models, or about photographs: an item is a patch or
  four, and the background holds no answers.
- Which item stands beside another: the tower was trained to tell, and a linear read-out of it did
  so for about a quarter of the neighbours when that was given up. No question asks for it.
- Differences below about {2 * record["standard_error"]:.0f} points: the naive standard error over
  all questions is {record["standard_error"]:.2f} points, and about twice that on one type.
- Anything that depends on the seed: this is one run. Weakest with all tokens: {named}.
"""


def write_card(record: Record) -> str:
    """The whole card."""
    parts = [
        _HEAD.format(
            words=len(WORDS) - len(SPECIAL),
            tower_blocks=TOWER_BLOCKS,
            lm_blocks=LM_BLOCKS,
            width=WIDTH,
            patches=PATCHES,
            canvas=DETAIL_CANVAS,
            layer=FEATURE_LAYER,
            megabytes=record["megabytes"],
            usage=usage_example("detail_model_path", "heldout_details", PICTURE_INPUTS, 3),
            pictures=HELDOUT_DETAILS,
            images=record["held_out"]["images"],
            questions=sum(record["questions"].values()),
            stages=stage_rows(record),
        ),
        f"""## Accuracy

Percent of held-out questions, greedy answers, fp16 weights computed in fp32. *Another picture* asks
each question about the next picture.

{accuracy_table(record)}

Through `processor` and `generate`, where nothing but the answer may be said:
{record["generate"]["all"]:.1f} % of the first {record["generate"]["questions"]} questions. Nothing
was decided on held-out pictures.

### Kept tokens

{kept_tokens(record, "100")}
""",
        limits(record),
        "The numbers come from `benchmarks/records/detail_model.json`; how to make them again\n"
        "stands in `training/detail_model/README.md`. Pruning methods on this model stand in\n"
        "`docs/benchmarks.md`.\n",
    ]
    return "\n".join(parts)


def main() -> None:
    """Command line."""
    card_command(__doc__, write_card, RECORD, detail_model_path())


if __name__ == "__main__":
    main()
