"""The arguments that several commands share."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command is added to: `argparse.ArgumentParser.add_subparsers` makes it, and has no public type."""

ADAPTER = "an adapter's folder, a run (runs/<signature>, its signature, or MLflow's id) or a trial (<study>/<n>)"
"""What can be named where an adapter is wanted."""

JSON, JSON_HELP = "--json", "print one JSON document (docs/programs.md)"
"""The option of every command for programs."""

NEW_TOKENS = 64
"""The most tokens of an answer, unless told otherwise."""


def add_base(parser: argparse.ArgumentParser) -> None:
    """Adds ``--base`` and ``--trust-remote-code``."""
    parser.add_argument(
        "--base", metavar="PATH", help="where the base is: a folder, a hub id or embedded:NAME (default: as trained)"
    )
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds ``--trust-remote-code``; ``more`` says what else it allows."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help=f"run Python code that comes with the base{more}; read that code first",
    )


def add_new_tokens(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds ``--new-tokens``; ``more`` ends its help."""
    parser.add_argument(
        "--new-tokens", type=int, default=NEW_TOKENS, help=f"tokens of an answer, at most (default: %(default)s{more})"
    )
