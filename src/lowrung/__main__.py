"""The command line: ``lowrung COMMAND``, or ``python -m lowrung COMMAND``."""

import argparse
import sys
from collections.abc import Sequence

from lowrung import cli
from lowrung.commands import clean, combine, compare, generate, inspect, merge, promote, reproduce, train, ui

COMMANDS = (train, ui, clean, inspect, generate, merge, compare, combine, promote, reproduce)
"""Each module adds its command by ``add_to``. What takes long to import waits until a command runs."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code (see `lowrung.cli`)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["train"]:  # Hydra's options and overrides, which argparse would not know
        sys.argv[1:] = arguments[1:]
        cli.run(train.main)
    elif arguments[:1] == ["-sc"]:
        sys.argv[1:] = arguments
        cli.run(train.complete)
    else:
        chosen = _parser().parse_args(arguments)
        cli.run(lambda: chosen.command(chosen))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lowrung", description="Which LoRA? Sweeps of LoRA fine-tunes, and commands for their results."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


if __name__ == "__main__":
    main()
