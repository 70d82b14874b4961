"""Write the model card from the measured record: `python -m training.reference_model.card`."""

from __future__ import annotations

from tokenprune.reference import reference_model_path
from tokenprune.reference.questions import TYPES
from training.reference_model.evaluate import RECORD
from training.reference_model.model import FEATURE_LAYER, LM_BLOCKS, PATCHES, TOWER_BLOCKS, WIDTH
from training.reference_model.vocab import SPECIAL, WORDS
from training.shared.writing import PICTURE_INPUTS, Record, card_command, head, row, usage_example

_HEAD = """# tokenprune reference model

A small LLaVA (`LlavaForConditionalGeneration`), trained from scratch on a CPU, on pictures that a
program draws. It exists to exercise and compare pruning methods where no large model is at hand.
It is not a general vision model: it knows {words} words and one kind of picture.

- CLIP tower: {tower_blocks} blocks, {width} wide, {patches} patches of 8 x 8 pixels (112 x 112
  pictures) and CLS; the language model reads feature layer {layer} without CLS.
- Llama: {lm_blocks} blocks, {width} wide. Two-layer projector. fp16 safetensors, {megabytes} MB.
- Licence: that of the project. All data are generated; no outside picture, text or weight is in it.

{usage}
"""

_DATA = """## Data

Muted, textured backgrounds; 1 to 4 objects (8 shapes, 8 colours, 14 to 28 pixels, slightly
turned, never overlapping), and in half of the pictures one digit. Half of the scenes with several
objects repeat shapes or colours. Seven question types with one-word answers: `colour`, `shape`,
`count`, `exist`, `digit`, `relation` (asked only if exactly one object stands on that side) and
`where` (quadrant). Questions that the scene leaves open are not asked.

The held-out set has {images} pictures and {questions} questions, drawn from its own seed with its
own textures whenever it is needed.

## Training

| stage | steps | pictures | questions a picture | pictures/s | minutes |
| --- | --- | --- | --- | --- | --- |
{stages}

One thread, bfloat16 arithmetic on fp32 weights, Muon for the matrices and AdamW for the rest.
`tower` learns from dense labels (kind and colour of every patch, position, contents of the picture
at CLS) and mostly sees a subset of the patches that holds all objects. `language` adds projector
and language model; in two of three steps they get only some tokens: at least one patch of every
item by ground truth and random others, or, more rarely, entirely random ones. Positions of the
kept tokens are the original ones in two of three steps, else renumbered. `binding` asks more
often about objects known by their colour, also in wordings that the held-out set does not use.
`joint` runs on all patches and in part of its steps drops patches, or averages them into the most
similar kept one, before a random block of the tower. In most of its steps the language model gets
its background tokens from other pictures: training on subsets had taught the tower to copy items
into the background, and the language model to read them there. No pruning method's scores are used.
"""


def stage_rows(record: Record) -> str:
    """The rows of the table of stages."""
    keys = ("stage", "steps", "images", "questions_per_image", "images_per_second", "minutes")
    return "\n".join(
        row([str(stage.get(key, "-")) for key in keys]) for stage in record["training"]
    )


#: Keys of a record with accuracies by type, and what they are called.
ACCURACIES = {
    "dense": "all tokens",
    "blank_image": "picture blanked",
    "other_image": "another picture",
    "text_only_guess": "most frequent answer",
}


def accuracy_table(record: Record) -> str:
    """Accuracy by type: dense, without the picture, and guessed from the question."""
    asked = record["questions"]
    rows = head("", "all", *asked)
    rows.append(row(["questions", str(sum(asked.values())), *map(str, asked.values())]))
    for key, label in ACCURACIES.items():
        if key in record:
            rows.append(row([label, *(f"{record[key][name]:.1f}" for name in ("all", *asked))]))
    return "\n".join(rows)


def selection_table(record: Record) -> str:
    """Accuracy over all questions by chooser, positions and kept tokens."""
    counts = list(next(iter(record["selection"]["original"].values())))
    rows = head("kept by", "positions", *counts)
    for name in record["selection"]["original"]:
        for positions, table in record["selection"].items():
            cells = [f"{table[name][count]['all']:.1f}" for count in counts]
            rows.append(row([name, positions, *cells]))
    return "\n".join(rows)


def inside_table(record: Record) -> str:
    """Accuracy when tokens go inside the tower."""
    table = record["inside_tower"]
    columns = list(next(iter(table.values())))
    rows = head("kept by, the others", *columns)
    rows += [row([name, *(f"{cells[c]:.1f}" for c in columns)]) for name, cells in table.items()]
    return "\n".join(rows)


def type_table(record: Record, count: str) -> str:
    """Accuracy by type at one number of kept tokens, original positions."""
    types = ("all", *record["questions"])
    rows = head("kept by", *types)
    for name, table in record["selection"]["original"].items():
        rows.append(row([name, *(f"{table[count][key]:.1f}" for key in types)]))
    return "\n".join(rows)


def kept_tokens(record: Record, count: str) -> str:
    """How well the model bears missing tokens: all counts, and one of them by type."""
    return f"""\
Chosen after the tower; `random` is the mean of {record["random_draws"]} draws, `object-oracle`
sees the truth. Original positions keep the place of every kept token; compact ones count anew.

{selection_table(record)}

By type at {count} tokens, original positions:

{type_table(record, count)}"""


def limits(record: Record) -> str:
    """What the model is not good for, with the weakest types of the record."""
    dense = record["dense"]
    weak = sorted(TYPES, key=lambda name: float(dense[name]))[:2]
    named = " and ".join(f"`{name}` ({dense[name]:.1f} %)" for name in weak)
    few = record["selection"]["original"]["object-oracle"]["16"]["count"]
    return f"""## Not good for

- Any other picture or wording. Unknown words become `<unk>`, and answers are single words.
- Conclusions about absolute accuracy of large models. Objects cover about a tenth of the patches
  and the background holds no answers, so 16 good tokens cost less here than on photographs.
- How well random choice does on large models. Here the language model was trained not to read
  items from background tokens; large models may, and then random choice does better.
- Differences below about one point: the naive standard error over all questions is
  {record["standard_error"]:.2f} points, and several times that on one type.
- Anything that depends on the seed: this is one run. Weakest with all tokens:
  {named}.
- Counting on few tokens: with the oracle's 16, which hold a patch of every item, `count` falls to
  {few:.1f} %. Read it apart from the rest.
"""


def write_card(record: Record) -> str:
    """The whole card."""
    fresh = record["fresh"]
    parts = [
        _HEAD.format(
            words=len(WORDS) - len(SPECIAL),
            tower_blocks=TOWER_BLOCKS,
            lm_blocks=LM_BLOCKS,
            width=WIDTH,
            patches=PATCHES,
            layer=FEATURE_LAYER,
            megabytes=record["megabytes"],
            usage=usage_example("reference_model_path", "heldout_samples", PICTURE_INPUTS, 3),
        ),
        _DATA.format(
            images=record["held_out"]["images"],
            questions=sum(record["questions"].values()),
            stages=stage_rows(record),
        ),
        f"""## Accuracy

Percent of held-out questions, greedy answers, fp16 weights computed in fp32.

{accuracy_table(record)}

Through `processor` and `generate`, where nothing but the answer may be said:
{record["generate"]["all"]:.1f} % of the first {record["generate"]["questions"]} questions.

The last two stages were settled while looking at the first 150 pictures of this set. Pictures of
a seed that nothing was decided on: {fresh["dense"]["all"]:.1f} %, on {fresh["images"]} pictures.

### Kept tokens

{kept_tokens(record, "16")}

Tokens that go inside the tower, before one block (counted from 0), the others dropped or averaged
into the most similar kept one:

{inside_table(record)}
""",
        limits(record),
        "The numbers come from `benchmarks/records/reference_model.json`; how to make them again\n"
        "stands in `training/reference_model/README.md`.\n",
    ]
    return "\n".join(parts)


def main() -> None:
    """Command line."""
    card_command(__doc__, write_card, RECORD, reference_model_path())


if __name__ == "__main__":
    main()
