"""What is imported when: no compiler with the library, no torch with the command line's help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tokenprune
from tokenprune.lab.measure import processes

FILE = Path(tokenprune.__file__)
PLAN = FILE.parents[1] / "examples" / "plans" / "explicit.yaml"
LOADED = """
import sys
print(sorted({{{modules}}} & sys.modules.keys()))
"""
HELP = """
from tokenprune.cli import app
for command in ("", {commands}):
    try:
        app([*command.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, command
"""
COMMANDS = """
from tokenprune.cli import app
for command in ("list", "list --matrix", "list --signals", "describe tome", "schema", "plugins",
                "validate {plan}"):
    try:
        app(command.split())
    except SystemExit as end:
        assert end.code == 0, command
"""
USED = "import tokenprune; [getattr(tokenprune, name) for name in tokenprune.__all__]"


def loaded(code: str, *modules: str) -> str:
    """Which of the modules an interpreter of its own has imported after running the code."""
    asked = LOADED.format(modules=", ".join(map(repr, modules)))
    done = subprocess.run([sys.executable, "-c", code + asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_importing_the_package_imports_no_torch() -> None:
    assert loaded("import tokenprune", "torch", "numpy", "pydantic") == "[]"


def test_public_names_take_no_compiler_and_no_model_library_along() -> None:
    found = loaded(USED, "torch", "torch._dynamo", "transformers", "timm", "tokenprune.lab")
    assert found == "['torch']"


def test_help_of_every_command_imports_no_torch() -> None:
    from tokenprune.cli import app

    names = [str(command.name) for command in app.registered_commands]
    assert "compare" in names
    code = HELP.format(commands=", ".join(map(repr, names)))
    heavy = ("torch", "transformers", "timm", "numpy", "PIL", "matplotlib")
    assert loaded(code, *heavy, "tokenprune.engine", "tokenprune.plugins") == "[]"


def test_commands_without_a_model_import_no_compiler() -> None:
    found = loaded(COMMANDS.format(plan=PLAN), "torch", "torch._dynamo", "transformers", "timm")
    assert found == "['torch']"


def test_every_public_name_is_there_and_no_other() -> None:
    for name in tokenprune.__all__:
        assert name in dir(tokenprune)
        found = getattr(tokenprune, name)
        assert getattr(found, "__name__", name) == name
    assert tokenprune.ops.__name__ == "tokenprune.ops"
    with pytest.raises(AttributeError, match="has no attribute 'atach'"):
        getattr(tokenprune, "atach")  # noqa: B009


def test_type_checkers_and_python_read_the_same_names() -> None:
    """The imports for type checkers stand beside the table that Python looks names up in."""
    imports = [one for one in ast.walk(ast.parse(FILE.read_text())) if isinstance(one, ast.If)]
    for_types = {
        str(node.module): {alias.name for alias in node.names}
        for node in imports[0].body
        if isinstance(node, ast.ImportFrom)
    }
    assert for_types == {home: set(names) for home, names in tokenprune._HOMES.items()}
    assert set().union(*for_types.values()) == set(tokenprune.__all__)


def test_what_is_imported_before_processes_fork_asks_for_no_device() -> None:
    """CUDA can't be used in a process that was forked from one which looked for devices."""
    code = """
import importlib, torch
from tokenprune.lab.measure.processes import PRELOADED

def asked(*_, **__):
    raise AssertionError("asked for devices")

torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = asked
for name in PRELOADED:
    importlib.import_module(name)
"""
    assert loaded(code, "transformers", "torch") == "['torch', 'transformers']"


def test_a_broken_library_does_not_end_the_process_that_others_are_forked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "PRELOADED", ("broken_library",))
    code = Path(processes.__file__).with_name("preloaded.py").read_text()
    exec(compile(code, "preloaded.py", "exec"), {"__name__": "preloaded"})
