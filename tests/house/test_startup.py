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
HEAVY = (
    *("torch", "torch._dynamo", "transformers", "timm", "numpy", "pydantic", "PIL", "matplotlib"),
    *("tokenprune.lab", "tokenprune.engine", "tokenprune.plugins"),
)
IMPORTED = "import tokenprune"
HELP = """
from tokenprune.cli import app
names = [command.name for command in app.registered_commands]
assert "compare" in names
for command in ("", *names):
    try:
        app([*command.split(), "--help"])
    except SystemExit as end:
        assert end.code == 0, command
"""
# CUDA can't be used in a process that was forked from one which looked for devices.
DEVICES = """
import torch
def asked(*_, **__):
    raise AssertionError("asked for devices")
torch.cuda._lazy_init = torch.cuda.is_available = torch.cuda.device_count = asked
"""
PLUGINS = """
import tokenprune_adapters.encoders_plugin, tokenprune_adapters.mllms_plugin
import tokenprune_adapters.loaders_plugin
"""
NAMES = "import tokenprune; [getattr(tokenprune, name) for name in tokenprune.__all__]"
COMMANDS = """
for command in ("list", "list --matrix", "list --signals", "describe tome", "schema", "plugins",
                "validate {plan}"):
    try:
        app(command.split())
    except SystemExit as end:
        assert end.code == 0, command
"""
FORKED = """
import importlib
from tokenprune.lab.measure.processes import PRELOADED
for name in PRELOADED:
    importlib.import_module(name)
"""
SEEN = """
import sys
print("\\nimported so far:", *({heavy} & sys.modules.keys()))
"""


@pytest.fixture(scope="module")
def steps() -> dict[str, set[str]]:
    """By step what an interpreter has imported after it: one for all, as torch takes seconds."""
    steps = {
        "package": IMPORTED, "help": HELP, "devices": DEVICES, "names": NAMES,
        "adapters": PLUGINS, "commands": COMMANDS.format(plan=PLAN), "forked": FORKED,
    }  # fmt: skip
    code = "".join(step + SEEN.format(heavy={*HEAVY}) for step in steps.values())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("imported so far:")]
    found = [set(line.partition(":")[2].split()) for line in lines]
    return dict(zip(steps, found, strict=True))


def test_importing_the_package_imports_no_torch(steps: dict[str, set[str]]) -> None:
    assert steps["package"] == set()


def test_help_of_every_command_imports_no_torch(steps: dict[str, set[str]]) -> None:
    assert steps["help"] == {"pydantic"}


def test_public_names_take_no_compiler_and_no_model_library_along(
    steps: dict[str, set[str]],
) -> None:
    found = steps["names"] & {"torch", "torch._dynamo", "transformers", "timm", "tokenprune.lab"}
    assert found == {"torch"}


def test_adapters_are_registered_without_their_model_libraries(steps: dict[str, set[str]]) -> None:
    assert steps["adapters"] & {"torch._dynamo", "transformers", "timm"} == set()


def test_commands_without_a_model_import_no_compiler(steps: dict[str, set[str]]) -> None:
    found = steps["commands"] & {"torch", "torch._dynamo", "transformers", "timm"}
    assert found == {"torch"}


def test_what_is_imported_before_processes_fork_asks_for_no_device(
    steps: dict[str, set[str]],
) -> None:
    """A step that asks would have ended in an error."""
    assert steps["forked"] >= {"torch", "transformers"}


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


def test_a_broken_library_does_not_end_the_process_that_others_are_forked_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(processes, "PRELOADED", ("broken_library",))
    code = Path(processes.__file__).with_name("preloaded.py").read_text()
    exec(compile(code, "preloaded.py", "exec"), {"__name__": "preloaded"})
