"""What mkdocs runs before it builds: stale generated pages end the build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import Abort


def on_pre_build(config: Any) -> None:
    """Compare the generated pages with what the code and the records say now.

    Raises:
        Abort: a page is stale.
    """
    script = Path(__file__).with_name("generate.py")
    found = subprocess.run(
        [sys.executable, str(script), "all", "--check"], check=False, capture_output=True, text=True
    )
    if found.returncode:
        raise Abort(f"generated pages are stale: python docs/generate.py all\n{found.stdout}")
