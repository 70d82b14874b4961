"""The report in a real browser, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from tests.reporting.made import HOSTILE, record, save
from tokenprune.lab.report import read_results, write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")

#: A page of its own asks, since the report forbids scripts.
ASK = """<body><script>
const told = {};
function look(frame, name) {
  const page = frame.contentDocument, root = page.documentElement;
  const body = frame.contentWindow.getComputedStyle(page.body);
  told[name] = {
    wide: root.scrollWidth, scripts: page.scripts.length, images: page.images.length,
    title: page.title, plots: page.querySelectorAll('.plot').length,
    marks: new Set([...page.querySelectorAll('.legend .mark')].map(m => m.getAttribute('d'))).size,
    overlays: [...page.querySelectorAll('.overlay')].filter(o => o.getBBox().width > 0).length,
    ground: body.backgroundColor, ink: body.color,
    bars: [...page.querySelectorAll('.track')].map(t => Math.round(
      [...t.children].reduce((sum, part) => sum + part.getBoundingClientRect().width, 0)
      / t.getBoundingClientRect().width * 100)),
  };
  if (Object.keys(told).length == 2) document.title = JSON.stringify(told);
}
</script>
<iframe src="report.html" width="390" height="800" onload="look(this, 'phone')"></iframe>
<iframe src="report.html" width="1200" height="800" onload="look(this, 'desk')"></iframe>
</body>"""


def look(folder: Path, *options: str) -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            *options,
            "--virtual-time-budget=5000",
            "--dump-dom",
            (folder / "ask.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told: dict[str, dict[str, object]] = json.loads(
        unescape(re.findall(r"<title>(.*?)</title>", done.stdout)[0])
    )
    return told


def test_the_page_in_a_browser_at_two_widths_and_in_the_dark(tmp_path: Path) -> None:
    plans = [record("dense", None, time=1.0)]
    plans += [
        record(f"{name} with a rather long name keep=8", name, text="what is it ?" * 9, frames=6)
        for name in ("random", "uniform", "fastv")
    ]
    plans.append(record(HOSTILE, "tome", text=HOSTILE))
    folder = save(tmp_path, plans, HOSTILE)
    write_report(read_results(folder), folder / "report.html", figures=False)
    (folder / "ask.html").write_text(ASK)
    light = look(folder, "--blink-settings=preferredColorScheme=1")
    dark = look(folder, "--blink-settings=preferredColorScheme=0")
    for told in (light["phone"], light["desk"], dark["phone"]):
        assert (told["scripts"], told["images"], told["title"]) == (0, 0, " ".join(HOSTILE.split()))
        assert (told["plots"], told["marks"]) == (3, 5)
        assert told["overlays"] == 1 + 3 * 6 + 1
        assert told["bars"] == [100, 50, 50, 50, 50]
    assert light["phone"]["wide"] == 390
    assert light["desk"]["wide"] == 1200
    assert (light["phone"]["ground"], dark["phone"]["ground"]) == (
        "rgb(255, 255, 255)",
        "rgb(20, 24, 27)",
    )
    assert light["phone"]["ink"] != dark["phone"]["ink"]
