"""`lowrung ui`: MLflow, opened on the latest sweep."""

import argparse
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.errors import blaming


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("ui", help="open MLflow on the latest sweep")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    default = "$MLFLOW_TRACKING_URI, else sqlite:///mlflow.db, in this folder"
    parser.add_argument("--uri", help=f"where the runs are (default: {default})")
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    from lowrung.track import base, server

    uri = base.store_uri(chosen.uri, Path.cwd())
    try:
        with blaming(f"The tracker, {uri},"):
            server.serve(uri, chosen.port)
    except base.TrackError as error:
        raise base.TrackError(f"{uri} cannot be shown: {error}") from error
