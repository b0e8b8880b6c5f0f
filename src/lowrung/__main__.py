"""The command line: ``lowrung COMMAND``, or ``python -m lowrung COMMAND``."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lowrung import cli
from lowrung.commands import (
    clean,
    combine,
    compare,
    doctor,
    export,
    generate,
    inspect,
    merge,
    promote,
    report,
    reproduce,
    studies,
    sync,
    train,
    ui,
)
from lowrung.commands.arguments import JSON, JSON_HELP
from lowrung.errors import UsageError
from lowrung.report.printer import Printer

COMMANDS = (
    train,
    ui,
    studies,
    report,
    sync,
    clean,
    inspect,
    generate,
    merge,
    compare,
    combine,
    promote,
    export,
    reproduce,
    doctor,
)
"""Each module adds its command by ``add_to``. What takes long to import waits until a command runs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code (see `lowrung.cli`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["train"]:  # Hydra's options and overrides, which argparse would not know
        sys.argv[1:] = arguments[1:]
        train.start()
    elif arguments[:1] == ["-sc"]:
        sys.argv[1:] = arguments
        cli.run(train.complete)
    else:
        printer = Printer(arguments[0] if arguments else "", as_json=JSON in arguments)
        cli.run(lambda: _run(arguments, printer), printer)


def _run(arguments: Sequence[str], printer: Printer) -> Any:
    try:
        chosen = parser().parse_args(arguments, argparse.Namespace(printer=printer))
    except UsageError as error:
        raise UsageError([f"{problem}{_as_a_name(arguments)}" for problem in error.problems]) from None
    return chosen.command(chosen)


def _as_a_name(arguments: Sequence[str]) -> str:
    """How to write a name that was taken for an option; empty where none was. Only ``--`` begins lowrung's options."""
    names = [text for text in arguments if text[:1] == "-" and text[1:2] != "-" and len(text) > 2]
    if not names or "--" in arguments:
        return ""
    rest = [text for text in arguments[1:] if text not in names]
    written = shlex.join([*arguments[:1], *rest, "--", *names])
    return f". A name that begins with - goes behind --, after all options: lowrung {written}"


class _Parser(argparse.ArgumentParser):
    """Refuses in the words of all commands what cannot be parsed, and abbreviations of options: one may soon be two."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        self.print_usage(sys.stderr)
        raise UsageError(f"{self.prog}: {message}")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; ``lowrung train`` is only listed there."""
    made = _Parser(prog="lowrung", description="Which LoRA? Sweeps of LoRA fine-tunes, and commands for their results.")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    for each in commands.choices.values():
        each.add_argument(JSON, action="store_true", help=JSON_HELP)
    return made


if __name__ == "__main__":
    main()
