"""The program: its commands, and how errors end it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from tokenprune.cli import (
    bench,
    calibrate,
    check,
    compare,
    describe,
    doctor,
    listing,
    plans,
    plugins,
    report,
    show,
    study,
    train,
    verify,
    vllm,
)
from tokenprune.cli.consoles import line
from tokenprune.cli.words import check_strays, names_study, several, spread
from tokenprune.errors import TokenpruneError
from tokenprune.errors.visible import visible
from tokenprune.interface.versions import missing, refuse_older

BAD_INPUT = 2

#: Exit code of a program that Ctrl-C ended, by custom.
INTERRUPTED = 130

#: Commands that read, print and end.
BRIEF = ("list", "describe", "validate", "schema", "plugins", "doctor")


class Group(TyperGroup):
    """Ends with exit code 2 and a sentence, not a traceback, where the input was bad."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Run with spread options, see `several`; study files of `compare` go to `study`."""
        try:
            given = self.understood(sys.argv[1:] if args is None else list(args))
        except TokenpruneError as error:
            explain(error)
            sys.exit(BAD_INPUT)
        return super().main(given, *rest, **options)

    def understood(self, args: list[str]) -> list[str]:
        """The arguments as the commands take them.

        Raises:
            DataError: a word of a command that takes options only is no value of one.
        """
        command = self.commands.get(args[0]) if args else None
        if command is None:
            return args
        given = [args[0], *spread(args[1:], several(command))]
        if names_study(given, command):
            Console(stderr=True).print("studies run with: tokenprune study FILE", style="yellow")
            return ["study", *given[1:]]
        check_strays(given[1:], command)
        return given

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn a `TokenpruneError` or a missing extra into a message."""
        try:
            return super().invoke(ctx)
        except TokenpruneError as error:
            explain(error)
        except ModuleNotFoundError as error:
            found = missing(error)
            if found is None:
                raise
            explain(found)
        except KeyboardInterrupt as error:
            said = f"interrupted: {error}" if str(error) else "interrupted."
            Console(stderr=True, soft_wrap=True).print(line(said), style="yellow")
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(BAD_INPUT)


app = typer.Typer(
    name="tokenprune",
    cls=Group,
    help="Remove visual tokens from multimodal LLMs, and measure what it costs and keeps.\n\n"
    "Exit codes: 0 all is well, 1 something that must hold doesn't, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tokenprune {metadata.version('tokenprune')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback()
def check_versions(ctx: typer.Context, version: Version = False) -> None:
    """Refuse libraries that are too old, before they are imported; `doctor` lists them."""
    if ctx.invoked_subcommand != "doctor":
        refuse_older()


app.command("compare", epilog=compare.EXAMPLES)(compare.command)
app.command("study", epilog=study.EXAMPLES)(study.command)
app.command("report", epilog=report.EXAMPLES)(report.command)
app.command("calibrate", epilog=calibrate.EXAMPLES)(calibrate.command)
app.command("bench", epilog=bench.EXAMPLES)(bench.command)
app.command("train", epilog=train.EXAMPLES)(train.command)
app.command("verify", epilog=verify.EXAMPLES)(verify.command)
app.command("check", epilog=check.EXAMPLES)(check.command)
app.add_typer(vllm.app, name="vllm")
app.command("show", epilog=show.EXAMPLES)(show.command)
app.command("list", epilog=listing.EXAMPLES)(listing.command)
app.command("describe", epilog=describe.EXAMPLES)(describe.command)
app.command("validate", epilog=plans.VALIDATE_EXAMPLES)(plans.validate)
app.command("schema", epilog=plans.SCHEMA_EXAMPLES)(plans.schema)
app.command("plugins", epilog=plugins.EXAMPLES)(plugins.command)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.command)


def main() -> None:
    """Entry point of the `tokenprune` script."""
    if sys.argv[1:2] and sys.argv[1] in BRIEF:
        gc.disable()  # looking for garbage among torch's modules is a fifth of their time
    app()


def explain(error: TokenpruneError) -> None:
    """Print place, problem and remedy of an error to standard error."""
    text = Text()
    text.append("error ", "bold red")
    if error.where:
        text.append(f"{visible(error.where)}\n", "bold")
    text.append(visible(error.message))
    if error.remedy:
        text.append(f"\n{visible(error.remedy)}", "green")
    Console(stderr=True, soft_wrap=True).print(text)
