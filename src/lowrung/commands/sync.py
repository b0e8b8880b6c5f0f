"""`lowrung sync`: gives the tracker what it was not given while it was away."""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from lowrung.commands.arguments import Commands
from lowrung.commands.names import find_runs
from lowrung.errors import FolderInUse, LowrungError, UsageError, blaming, did_you_mean
from lowrung.report.tables import counted
from lowrung.store import atomic
from lowrung.store.layout import RunFolder, StudyFolder
from lowrung.studies import finding
from lowrung.studies.folders import links


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("sync", help="send the tracker what it missed while it was away")
    parser.add_argument(
        "name", nargs="?", metavar="STUDY", help="a study, or a single run (default: all in this folder)"
    )
    parser.add_argument("--uri", help="another tracker than the one that missed it, such as a server that has moved")
    parser.set_defaults(command=_run)


@dataclasses.dataclass(frozen=True)
class Sent:
    """What the tracker was sent of a study, or of a single run.

    Attributes:
        name: the study's or the run's.
        runs: how many runs were sent.
        uri: where to.
        experiment: the experiment's name.
    """

    name: str
    runs: int
    uri: str
    experiment: str

    def __str__(self) -> str:
        """In a line."""
        return f"{self.name}: {counted(self.runs, 'run')} sent to {self.uri}, experiment {self.experiment}"


@dataclasses.dataclass(frozen=True)
class Synced:
    """What the tracker was sent.

    Attributes:
        sent: by study or run; empty where nothing was missing.
    """

    sent: Sequence[Sent]

    def __str__(self) -> str:
        """In a line each."""
        return "\n".join(map(str, self.sent)) or "nothing is missing in the tracker"


def _run(chosen: argparse.Namespace) -> Iterator[Synced]:
    here, sent, failures = Path.cwd(), [], []
    found = _named(chosen.name, here) if chosen.name else _all(here)
    for folder in found:
        try:
            if folder.untracked.is_file():
                sent.append(_send(folder, chosen.uri, here))
        except LowrungError as error:  # the others are sent all the same
            failures.append(f"{folder.path.name}: {error}. What is missing is kept; run lowrung sync again.")
    if sent or not failures:
        yield Synced(sent)
    if failures:
        raise LowrungError("\n".join(failures))


def _all(here: Path) -> "Sequence[StudyFolder | RunFolder]":
    """Studies and single runs of which something is missing."""
    linked = {link.resolve() for link in links(here / "outputs")}  # they lead to a store elsewhere too
    runs = [RunFolder(path) for path in sorted({*(here / "runs").glob("*"), *linked})]
    folders: list[StudyFolder | RunFolder] = [*finding.started(here), *runs]
    return [folder for folder in folders if folder.untracked.is_file()]


def _named(name: str, here: Path) -> "Sequence[StudyFolder | RunFolder]":
    """The study or the run of a name; what a trial's run lacks is on the list of its study.

    Raises:
        UsageError: when there is none.
    """
    if (study := finding.named(name, here)) is not None:
        return [study]
    try:
        (run,) = find_runs([name], here)
    except UsageError as error:
        known = sorted(study.path.name for study in finding.started(here))
        raise UsageError(
            f"{name} must be a study or a run, but there is none in {here}.{did_you_mean(name, known)}"
        ) from error
    return [run] if run.untracked.is_file() else [*dict(finding.holding(run, here))]


def _send(folder: "StudyFolder | RunFolder", uri: str | None, here: Path) -> Sent:
    """Sends what one folder's list names, and deletes the list.

    Raises:
        TrackError: when the tracker does not take it; the list stays.
        UsageError: when the study or the run goes on just now, which sends by itself.
    """
    from lowrung.track import opening, recording
    from lowrung.track.base import store_uri
    from lowrung.track.owed import Owed

    opening.hurry()
    try:
        with atomic.lock(folder.lock):
            owed = Owed.read(folder.untracked)
            address = store_uri(uri, here) if uri else owed.uri
            with blaming(f"The tracker, {address},"):
                owed.send(recording.made(address, owed.experiment, here / "mlruns"))
            folder.untracked.unlink()
    except FolderInUse:
        raise UsageError(
            f"{folder.path.name} must have ended, but a process works on it: that one sends by itself."
        ) from None
    return Sent(folder.path.name, len(owed.runs), address, owed.experiment)
