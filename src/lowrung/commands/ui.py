"""`lowrung ui`: MLflow, opened on the latest sweep."""

import argparse
import dataclasses
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.errors import blaming


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("ui", help="open MLflow on the latest sweep")
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: %(default)s)")
    default = "$MLFLOW_TRACKING_URI, else sqlite:///mlflow.db, in this folder"
    parser.add_argument("--uri", help=f"where the runs are (default: {default})")
    parser.set_defaults(command=_run, answer=Served)


@dataclasses.dataclass(frozen=True)
class Served:
    """A store that is served until Ctrl-C.

    Attributes:
        address: what to open: the runs of the latest sweep, if there is one; its charts are at ``/charts`` below.
        uri: the address of the store.
        has_sweep: whether there is a sweep.
    """

    address: str
    uri: str
    has_sweep: bool

    def __str__(self) -> str:
        """What to do now."""
        from lowrung.track import pages
        from lowrung.track.server import SWEEP

        if not self.has_sweep:
            return f"There is no sweep yet: `{SWEEP}` runs one.\nOpen {self.address}\nStop with Ctrl-C."
        charts = f"{self.address}/{pages.CHARTS}"
        return f"Open {self.address} (the latest sweep)\n  or {charts}\nStop with Ctrl-C."


def _run(chosen: argparse.Namespace) -> None:
    from lowrung.track import base, server

    uri = base.store_uri(chosen.uri, Path.cwd())
    try:
        with blaming(f"The tracker, {uri},"):
            server.serve(
                uri, chosen.port, lambda address, has_sweep: chosen.printer.answer(Served(address, uri, has_sweep))
            )
    except base.TrackError as error:
        raise base.TrackError(f"{uri} cannot be shown: {error}") from error
