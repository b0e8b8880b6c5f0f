"""Where a run was tracked."""

from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands import studies as champions
from lowrung.commands.run_inputs import config_of
from lowrung.store import addresses
from lowrung.store.layout import RunFolder
from lowrung.track.base import store_uri

if TYPE_CHECKING:
    from lowrung.track.lookup import TrackedRun


def uri_of(run: RunFolder, here: Path) -> str | None:
    """The address of the store that a run was to be tracked in; None where it was not to be.

    A study that shares a result of others tracks it in its own store, of which the run's config knows nothing.

    Args:
        run: the run.
        here: what a relative SQLite path is relative to, and where studies are looked for.
    """
    studies = (champions.setting(study, "track") for study, _ in champions.studies_of(run, here))
    for track in (*studies, config_of(run).get("track")):
        if track and track.get("kind") == "mlflow":
            return store_uri(track.get("uri"), here)
    return None


def record_of(run: RunFolder, here: Path) -> "TrackedRun | None":
    """A run as it was tracked, or None where it was not.

    Raises:
        UsageError: when the address cannot be used.
        TrackError: when the store does not answer.
    """
    uri = uri_of(run, here)
    database = addresses.sqlite_path(uri) if uri else None
    if uri is None or (database and not database.is_file()):
        return None
    from lowrung.track import lookup  # imports mlflow (2 s)

    return lookup.by_signature(uri, run.path.name)
