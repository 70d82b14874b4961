"""Overlays of the report: merged patches are coloured, and only dropped ones are covered."""

from __future__ import annotations

import re

from tokenprune.lab.drawing.colours import colour
from tokenprune.lab.report.overlays import PageImages, in_words, overlay

PICTURE = "data:image/jpeg;base64,AAAA"


def frame(*owners: int, width: int = 2) -> dict[str, object]:
    return {"picture": PICTURE, "grid": [len(owners) // width, width], "owner": [*owners]}


def shade(place: int) -> str:
    return "rgb({},{},{})".format(*colour(place))


def covered(drawn: str) -> list[str]:
    return re.findall(r'<path d="([^"]*)" class="dropped"/>', drawn)


def test_a_merge_covers_nothing_and_has_the_colour_of_its_place() -> None:
    drawn = overlay([frame(0, 0, 2, 0)], "three in one", PageImages())
    assert covered(drawn) == [""]
    assert drawn.count(f'fill="{shade(0)}"') == 1
    assert shade(2) not in drawn, "a token that stands for itself is left as it is"
    (tint,) = re.findall(rf'<path d="([^"]*)" fill="{re.escape(shade(0))}"', drawn)
    assert tint == "M0,0h1v1h-1zM1,0h1v1h-1zM1,1h1v1h-1z"
    assert in_words([frame(0, 0, 2, 0)]) == "2 of 4 left, 1 of them merged"


def test_lines_run_where_another_token_begins() -> None:
    drawn = overlay([frame(0, 0, 2, 3)], "", PageImages())
    (line,) = re.findall(rf'<path d="([^"]*)" stroke="{re.escape(shade(0))}"', drawn)
    edges = sorted(re.findall(r"M\d,\d[hv]1", line))
    assert edges == ["M0,0h1", "M0,0v1", "M0,1h1", "M1,0h1", "M1,1h1", "M2,0v1"]


def test_dropped_patches_are_covered_and_counted() -> None:
    drawn = overlay([frame(-1, 1, -1, 3)], "two left", PageImages())
    assert covered(drawn) == ["M0,0h1v1h-1zM0,1h1v1h-1z"]
    assert "rgb(" not in drawn
    assert in_words([frame(-1, 1, -1, 3)]) == "2 of 4 left, 2 dropped"


def test_a_merge_across_frames_has_one_colour_in_all() -> None:
    frames = [frame(0, 1, 2, 3), frame(0, 5, 6, 3)]
    drawn = overlay(frames, "two frames", PageImages())
    assert drawn.count(f'fill="{shade(0)}"') == drawn.count(f'fill="{shade(3)}"') == 2
    assert shade(5) not in drawn
    assert in_words(frames) == "6 of 8 left, 2 of them merged"


def test_the_label_is_there_for_those_who_cant_see() -> None:
    drawn = overlay([frame(0, 1, 2, 3)], 'a <b> "c"', PageImages())
    assert 'role="img" aria-label="a &lt;b&gt; &quot;c&quot;"' in drawn
    assert "<title>a &lt;b&gt;" in drawn
