"""What a tower did to pieces is told of the pictures that they are parts of."""

from __future__ import annotations

import torch
from torch import Tensor

from tokenprune.interface.sites import Site
from tokenprune.interface.trace import Origin, Trace

PIECES, PATCHES = 2, 6
SITES = [Site("encoder", 1, 4), Site("encoder", 2, 4)]


def passed() -> tuple[Trace, list[list[list[list[int]]]]]:
    """Two random reductions of both pieces: a trace, and their groups of patches after each step.

    A group is the patches that are one token, its anchor first.
    """
    trace, groups, kept = Trace(), [], PATCHES
    trace.begin(PIECES, (1, 2, 3))
    standing = [[[patch] for patch in range(PATCHES)] for _ in range(PIECES)]
    for site in SITES:
        kept -= 2
        slots, anchors, left = [], [], []
        for piece in range(PIECES):
            rows = torch.randperm(kept + 2, generator=torch.Generator().manual_seed(piece + kept))
            drop, merge, *stay = rows.tolist()
            stay.sort()
            slot = torch.full((kept + 2,), -1)
            slot[stay] = torch.arange(kept)
            slot[merge] = int(slot[stay[0]])
            now = [list(standing[piece][row]) for row in stay]
            now[0] += standing[piece][merge]
            slots.append(slot)
            anchors.append(torch.tensor([group[0] for group in now]))
            left.append(now)
            assert drop not in stay
        standing = left
        groups.append(left)
        score = torch.rand(PIECES, kept + 2, generator=torch.Generator().manual_seed(kept))
        trace.record(site, "a", range(PIECES), torch.stack(slots), torch.stack(anchors), score)
    return trace, groups


def told(sources: Tensor, groups: list[list[list[int]]]) -> tuple[list[int], list[int]]:
    """By loops: the assignment of every patch of a picture, and the anchors of what is left."""
    places = [divmod(number, PATCHES) for number in sources.tolist()]
    heads = {(p, group[0]) for p in range(PIECES) for group in groups[p]}
    anchors = [at for at, place in enumerate(places) if place in heads]
    assignment = []
    for piece, patch in places:
        owner = next((group[0] for group in groups[piece] if patch in group), None)
        shown = [slot for slot, at in enumerate(anchors) if places[at] == (piece, owner)]
        assignment.append(shown[0] if shown else -1)
    return assignment, anchors


def test_steps_of_pieces_are_composed_for_every_picture() -> None:
    pieces, groups = passed()
    pictures = [torch.tensor([0, 2, 3, 5, 9]), torch.tensor([11, 4, 1, 10, 8, 7])]
    trace = Trace()
    for sources in pictures:
        trace.begin(1, (1, 1, len(sources)), Origin(pieces, sources))
    for picture, sources in zip(trace.images, pictures, strict=True):
        before = list(range(len(sources)))
        for number, step in enumerate(picture.steps):
            assignment, anchors = told(sources, groups[number])
            assert step.assignment.tolist() == assignment
            assert step.anchor.tolist() == anchors
            assert step.score is not None
            assert step.score.tolist() == scores(pieces, number, sources[before])
            before = anchors


def scores(pieces: Trace, number: int, sources: Tensor) -> list[float]:
    """The scores of the tokens that stood in places of a picture before a step, by loops."""
    found = []
    for source in sources.tolist():
        image = pieces.image(source // PATCHES)
        arrived = image.steps[number - 1].anchor.tolist() if number else list(range(PATCHES))
        score = image.steps[number].score
        assert score is not None
        found.append(float(score[arrived.index(source % PATCHES)]))
    return found


def test_later_steps_go_on_from_what_the_tower_left() -> None:
    pieces, _ = passed()
    trace = Trace()
    (number,) = trace.begin(1, (1, 1, 12), Origin(pieces, torch.arange(12)))
    before = trace.image(number)
    slot, anchor = torch.tensor([[0, -1, -1, 1]]), before.steps[-1].anchor[[0, 3]][None]
    trace.record(Site("pre_llm", 4, 4), "b", [number], slot, anchor)
    last = trace.image(number).steps[-1]
    expected = [{0: 0, 3: 1}.get(at, -1) for at in before.steps[-1].assignment.tolist()]
    assert last.assignment.tolist() == expected
    assert (trace.image(number).kept, before.kept) == (2, 4)


def test_what_is_forgotten_takes_its_origin_along() -> None:
    pieces, _ = passed()
    trace = Trace()
    trace.begin(1, (1, 1, 12), Origin(pieces, torch.arange(12)))
    trace.begin(2, (1, 1, 12), Origin(pieces, torch.arange(12)))
    trace.forget(1, 0)
    assert (len(trace.images), list(trace.origins)) == (1, [0])


def test_pieces_of_several_sizes_may_lack_a_step() -> None:
    """A tile of four units loses one at block 1 and one at block 2, an overview of two one at 2."""
    pieces, first, second = Trace(), Site("encoder", 1, 4), Site("encoder", 2, 4)
    pieces.begin(1, (1, 1, 2))
    pieces.begin(1, (1, 2, 2))
    pieces.record(first, "a", [1], torch.tensor([[0, -1, 1, 2]]), torch.tensor([[0, 2, 3]]))
    pieces.record(second, "a", [1], torch.tensor([[0, 0, 1]]), torch.tensor([[0, 3]]))
    pieces.record(second, "a", [0], torch.tensor([[-1, 0]]), torch.tensor([[1]]))
    trace = Trace()
    trace.begin(1, (1, 1, 6), Origin(pieces, torch.arange(6)))
    one, two = trace.image(0).steps
    assert (one.site, two.site) == (first, second)
    assert one.anchor.tolist() == [0, 1, 2, 4, 5]
    assert one.assignment.tolist() == [0, 1, 2, -1, 3, 4]
    assert two.anchor.tolist() == [1, 2, 5]
    assert two.assignment.tolist() == [-1, 0, 1, -1, 1, 2]
