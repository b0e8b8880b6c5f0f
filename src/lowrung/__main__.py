"""The command line: ``lowrung COMMAND``, or ``python -m lowrung COMMAND``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lowrung import cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and ends the process with its exit code (see `lowrung.cli`)."""
    chosen = _parser().parse_args(arguments)
    cli.run(lambda: chosen.command(chosen))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lowrung", description="What to do once a sweep has run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ui = commands.add_parser("ui", help="open MLflow on the latest sweep")
    ui.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    ui.add_argument("--uri", help="where the runs are (default: sqlite:///mlflow.db, in this folder)")
    ui.set_defaults(command=_ui)
    about = (
        "Deletes what a study can do without: the checkpoints, working files and merged models of its runs, which can"
        " be made again (a run that was interrupted then starts over). Results and adapters stay."
        " MLflow is never touched: what was recorded there stays, with --all too."
    )
    clean = commands.add_parser("clean", help="delete what a study can do without", description=about)
    clean.add_argument("study", metavar="STUDY", help="a study in ./multirun, or a study's folder")
    clean.add_argument(
        "--all", action="store_true", help="the study and its runs too, but for runs that other studies point to"
    )
    clean.add_argument("--dry-run", action="store_true", help="say what would go, and delete nothing")
    clean.set_defaults(command=_clean)
    return parser


def _ui(chosen: argparse.Namespace) -> None:
    from lowrung.track import base, server

    server.serve(base.store_uri(chosen.uri, Path.cwd()), chosen.port)


def _clean(chosen: argparse.Namespace) -> None:
    from lowrung import clean

    print(clean.clean(chosen.study, everything=chosen.all, dry_run=chosen.dry_run))


if __name__ == "__main__":
    main()
