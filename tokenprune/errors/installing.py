"""How users get what an extra of tokenprune brings, for remedies.

PyPI's project of the name tokenprune is another one, so extras are installed from the repository.
"""

from __future__ import annotations


def pip_install(extra: str = "") -> str:
    """The command that installs tokenprune with an extra, and where to run the command.

    Args:
        extra: of `pyproject.toml`, such as `report`; empty for tokenprune alone.
    """
    source = f"'.[{extra}]'" if extra else "."
    return f"pip install -e {source} in the folder of tokenprune's repository"
