import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tokenprune.errors import DataError
from tokenprune.interface.sites import Site
from tokenprune.interface.trace import ImageTrace, TraceStep
from tokenprune.lab.drawing import overlay, panels

GREY = Image.new("RGB", (32, 32), (60, 80, 200))

#  patches of a 2 x 4 grid: 0 and 1 merged, 2 kept, 3 dropped, 4 5 6 kept, 7 merged with 0 and 1
ASSIGNMENT = [0, 0, 1, -1, 2, 3, 4, 0]


def step(assignment: list[int], site: Site | None = None, strategy: str = "tome") -> TraceStep:
    slots = torch.tensor(assignment)
    anchors = [assignment.index(slot) for slot in range(int(slots.max()) + 1)]
    return TraceStep(site or Site("encoder", 3, 11), strategy, slots, torch.tensor(anchors))


def trace(*steps: TraceStep) -> ImageTrace:
    return ImageTrace((1, 2, 4), steps)


def painted() -> tuple[np.ndarray, int]:
    one = step(ASSIGNMENT)
    large = overlay.enlarge(GREY, trace(one), 160)
    picture = overlay.panel_of(large, trace(one), one).picture
    return np.asarray(picture).astype(int), picture.width // 4


def centre(pixels: np.ndarray, cell: int, patch: int) -> list[int]:
    row, column = divmod(patch, 4)
    return [int(v) for v in pixels[row * cell + cell // 2, column * cell + cell // 2]]


def test_every_patch_covers_whole_pixels() -> None:
    large = overlay.enlarge(GREY, trace(), 150)
    assert (large.width % 4, large.height % 2) == (0, 0)
    assert large.views[0].picture.size == (large.width, large.height)
    assert large.width // 4 == large.height // 2


def test_kept_patches_show_the_picture() -> None:
    pixels, cell = painted()
    for patch in (2, 4, 5, 6):
        assert centre(pixels, cell, patch) == [60, 80, 200]


def test_dropped_patches_are_dark_and_grey() -> None:
    pixels, cell = painted()
    dark = centre(pixels, cell, 3)
    assert max(dark) < 60
    assert max(dark) - min(dark) < (200 - 60) / 8


def test_a_merged_group_has_one_colour_that_is_not_the_picture() -> None:
    pixels, cell = painted()
    first, second, far = (centre(pixels, cell, patch) for patch in (0, 1, 7))
    assert first == second == far
    assert max(abs(a - b) for a, b in zip(first, (60, 80, 200), strict=True)) > 25


def test_outlines_run_around_survivors_and_not_through_groups() -> None:
    pixels, cell = painted()
    middle = cell // 2
    assert pixels[middle, 2 * cell].tolist() == list(overlay.KEPT_EDGE)
    assert pixels[middle, 2 * cell - 1].tolist() == list(overlay.colour(0))
    assert pixels[middle, cell].tolist() == centre(pixels, cell, 0)
    assert pixels[middle, 4 * cell - 1].tolist() == centre(pixels, cell, 3)


def test_counts_are_in_the_line_above_the_panel() -> None:
    one = step(ASSIGNMENT)
    panel = overlay.panel_of(overlay.enlarge(GREY, trace(one), 80), trace(one), one)
    assert panel.heading == "tome · inside the encoder"
    assert panel.detail == "encoder[3]: 5 of 8 left, 1 merged, 4 single, 1 dropped"


def test_one_panel_a_stage_or_one_a_site() -> None:
    steps = (
        step([0, 0, 1, 2, 3, 4, 5, 6], Site("encoder", 1, 11)),
        step(ASSIGNMENT, Site("encoder", 3, 11)),
        step([0, 0, -1, -1, -1, 1, -1, 0], Site("pre_llm", 11, 11), "fopru"),
    )
    by_stage = overlay.draw(GREY, trace(*steps), panel=80)
    by_site = overlay.draw(GREY, trace(*steps), panel=80, every_site=True)
    panel = 80 + panels.GAP
    assert by_stage.width == 3 * panel + panels.GAP
    assert by_site.width == 4 * panel + panels.GAP
    assert [s.strategy for s in overlay.stage_ends(steps)] == ["tome", "fopru"]
    assert overlay.stage_ends(steps)[0] is steps[1]


def test_restored_tokens_do_not_hide_what_was_dropped() -> None:
    pruned, restored = step(ASSIGNMENT, strategy="ipcv"), step(list(range(8)), strategy="ipcv")
    assert overlay.stage_ends((pruned, restored)) == [pruned]
    large = overlay.enlarge(GREY, trace(pruned, restored), 80)
    panel = overlay.panel_of(large, trace(pruned, restored), pruned)
    assert panel.detail.endswith("all restored after it")


def test_text_that_is_too_long_ends_in_dots() -> None:
    shown = [panels.Panel(Image.new("RGB", (60, 60)), "a" * 200, "b" * 200)]
    assert panels.strip(shown, "c" * 300).width == 60 + 2 * panels.GAP


def test_neighbouring_groups_differ_in_colour() -> None:
    colours = [overlay.colour(slot) for slot in range(64)]
    apart = [
        sum(abs(a - b) for a, b in zip(one, two, strict=True))
        for one, two in itertools.pairwise(colours)
    ]
    assert min(apart) > 60
    assert len(set(colours)) == 64


def test_sheets_are_stacked() -> None:
    sheets = [Image.new("RGB", (30, 20), "red"), Image.new("RGB", (50, 10), "blue")]
    whole = panels.stack(sheets)
    assert whole.size == (50, 30)
    assert whole.getpixel((5, 5)) == (255, 0, 0)
    assert whole.getpixel((45, 25)) == (0, 0, 255)


def test_frames_of_a_video_lie_side_by_side() -> None:
    slots = torch.arange(3 * 8).view(3, 2, 4)
    slots[2, 0, 0] = 0  # merged across frames
    slots[1, 1, 3] = -1
    one = TraceStep(Site("encoder", 0, 2), "evoprune", slots.flatten(), torch.arange(24))
    video = ImageTrace((3, 2, 4), (one,))
    frames = [Image.new("RGB", (32, 16), colour) for colour in ("red", "lime", "blue")]
    large = overlay.enlarge(frames, video, 240)
    cell = large.width // 12
    pixels = np.asarray(overlay.panel_of(large, video, one).picture).astype(int)
    middle = cell // 2
    shown = [pixels[middle, (4 * frame + 1) * cell + middle].tolist() for frame in range(3)]
    assert shown == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    tint = np.asarray(overlay.colour(0))
    for frame, plain in ((0, (255, 0, 0)), (2, (0, 0, 255))):
        expected = 0.62 * np.asarray(plain) + 0.38 * tint
        assert np.abs(pixels[middle, 4 * frame * cell + middle] - expected).max() <= 1
    assert pixels[cell + middle, 7 * cell + middle].max() < 80
    assert pixels[middle, 4 * cell].tolist() == list(panels.PAPER)
    assert overlay.draw(frames, video, panel=240).width == 2 * 12 * cell + 3 * panels.GAP


@pytest.mark.parametrize(("frames", "tiles"), [(1, (1, 1)), (3, (1, 3)), (5, (2, 3)), (8, (2, 4))])
def test_many_frames_go_into_rows(frames: int, tiles: tuple[int, int]) -> None:
    large = overlay.enlarge([GREY] * frames, ImageTrace((frames, 2, 4), ()), 160)
    wide, high = large.views[0].picture.size
    assert (large.width, large.height) == (tiles[1] * wide, tiles[0] * high)
    places = [(view.left // wide, view.top // high) for view in large.views]
    assert places == [(frame % tiles[1], frame // tiles[1]) for frame in range(frames)]
    assert [view.units.flatten().tolist() for view in large.views] == [
        list(range(8 * frame, 8 * frame + 8)) for frame in range(frames)
    ]


def test_a_video_is_drawn_over_all_of_its_frames() -> None:
    with pytest.raises(DataError, match="3 frames"):
        overlay.draw(GREY, ImageTrace((3, 2, 4), ()))


def test_a_group_keeps_its_colour_when_survivors_are_numbered_anew() -> None:
    first = step([0, 1, 2, 2, 3, 4, 5, 6])
    later = TraceStep(
        Site("pre_llm", 11, 11),
        "fopru",
        torch.tensor([-1, -1, 0, 0, -1, -1, -1, 1]),
        torch.tensor([2, 7]),
    )
    large = overlay.enlarge(GREY, trace(first, later), 160)
    cell = large.width // 4
    shown = [
        centre(np.asarray(overlay.panel_of(large, trace(first, later), s).picture), cell, 3)
        for s in (first, later)
    ]
    assert shown[0] == shown[1]


def test_many_panels_go_into_rows() -> None:
    shown = [panels.Panel(Image.new("RGB", (60, 60), "red"), "a", "b")] * (panels.COLUMNS + 1)
    sheet = panels.strip(shown)
    assert sheet.width == panels.COLUMNS * (60 + panels.GAP) + panels.GAP
    second_row = 2 * panels.GAP + 2 * panels.CAPTION + 60
    assert sheet.getpixel((panels.GAP + 30, second_row + 20)) == (255, 0, 0)
    assert sheet.getpixel((2 * panels.GAP + 90, second_row + 20)) == panels.PAPER
