"""The main plots of a sweep that has ended, which its run in the tracker shows."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lowrung.store import atomic
from lowrung.store.layout import StudyFolder
from lowrung.version import __version__

_MARK = "digest"
"""Written last, beside the plots: the digest of what they show."""


def drawn(folder: StudyFolder) -> Sequence[Path]:
    """Draws the plots of a leaderboard; those of the same one are kept, since matplotlib takes 0.5 s to import.

    Plots that cannot be drawn are one line: the results do not depend on them.

    Args:
        folder: the study's, with its leaderboard and its verdict.

    Returns:
        the files; none where the trials are too few, or cannot be drawn.
    """
    try:
        digest, mark = _digest(folder), folder.plots / _MARK
        if not mark.is_file() or mark.read_bytes() != digest:
            shutil.rmtree(folder.plots, ignore_errors=True)
            _draw(folder)
            atomic.write_bytes(mark, digest)
        return sorted(folder.plots.glob("*.png"))
    except Exception as error:
        said = str(error).partition("\n")[0]
        print(f"warning: the sweep's plots are not drawn: {type(error).__name__}: {said}")
        return []


def _draw(folder: StudyFolder) -> None:
    from lowrung.report import plots  # imports matplotlib (0.5 s)
    from lowrung.studies import reading

    plots.png(reading.read(folder), folder.plots)


def _digest(folder: StudyFolder) -> bytes:
    """Of what is drawn: the rows, and where they stand."""
    shown = json.dumps(
        [__version__, json.loads(folder.leaderboard.read_text()), json.loads(folder.verdict.read_text())]
    )
    return hashlib.sha256(shown.encode()).hexdigest().encode()
