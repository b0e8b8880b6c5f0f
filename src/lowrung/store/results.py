"""Whose a result is: what lies in ``store/<signature>/`` is checked when it is written, and when it is reused."""

import dataclasses
import hashlib
import shutil
import uuid
from pathlib import Path

from lowrung.errors import FolderInUse
from lowrung.store import atomic, records
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome


class TakenBack(FolderInUse):
    """A run's folder was given to another job since."""


def claim(folder: RunFolder) -> str:
    """Gives a folder to a new job, and takes it from an older one. For the holder of the folder's lock.

    Returns:
        what the job shows when it writes its result.
    """
    given = uuid.uuid4().hex
    atomic.write_text(folder.claim, given)
    return given


def require_claim(folder: RunFolder, claim: str) -> None:
    """Refuses a job whose folder was given to another one.

    Raises:
        TakenBack: when it was, or when the folder is gone.
    """
    if not folder.claim.is_file() or folder.claim.read_text(encoding="utf-8") != claim:
        raise TakenBack(f"{folder.path} was given to another job since. That job's result counts, and this one ends.")


def save(outcome: Outcome, folder: RunFolder, claim: str) -> Outcome:
    """Writes how a run ended, with the run's signature and the digests of what it trained; returns what was written.

    Args:
        outcome: how it ended.
        folder: the run's.
        claim: of the run's job.

    Raises:
        TakenBack: when the folder was given to another job.
    """
    require_claim(folder, claim)
    signed = dataclasses.replace(outcome, signature=folder.path.name, files=digests(folder))
    signed.write(folder.outcome)
    return signed


def left_by(folder: RunFolder) -> Outcome | None:
    """How a run has just ended; None where it left no outcome, or that of another run."""
    outcome = Outcome.read(folder.outcome)
    return outcome if outcome is not None and outcome.signature == folder.path.name else None


def doubt(folder: RunFolder, outcome: Outcome) -> str | None:
    """Why an outcome is not the result of the run that its folder is named after, in words; None where it is.

    All files that the run trained are read: 1.7 GB/s.
    """
    if outcome.signature != folder.path.name:
        return f"its outcome is that of {outcome.signature or 'a run without a signature'}"
    found = digests(folder)
    for name in sorted(outcome.files.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if outcome.files.get(name) != found[name]:
            return f"{name} is not what the run left"
    return None


def put_strangers_aside(folder: RunFolder) -> str | None:
    """Moves what is not the run's own out of its folder; nothing of it is deleted. For the holder of its lock.

    Returns:
        what was moved, where and why, in words; None where nothing was.
    """
    reason = _strange(folder)
    if reason is None:
        return None
    number = sum(1 for _ in _aside(folder).glob(f"{folder.path.name}-*"))
    aside = _aside(folder) / f"{folder.path.name}-{number + 1}"
    aside.mkdir(parents=True)
    for path in folder.path.iterdir():
        if path != folder.lock:
            shutil.move(path, aside / path.name)
    return f"what is in {folder.path} is not used, since {reason}: it was moved to {aside}, and the run starts anew"


def _aside(folder: RunFolder) -> Path:
    return folder.path.parent / ".aside"


def _strange(folder: RunFolder) -> str | None:
    """Why what is in a folder is not the run's own, or was changed after its end; None where it is the run's."""
    outcome = Outcome.read(folder.outcome)
    if outcome is not None:
        return doubt(folder, outcome)
    if not any(path.is_dir() for path in (folder.checkpoints, folder.adapter, folder.model)):
        return None
    made_for = records.read(folder.environment).get("signature") if folder.environment.is_file() else None
    return None if made_for == folder.path.name else f"it was made for {made_for or 'a run that is not known'}"


def digests(folder: RunFolder) -> dict[str, str]:
    """The SHA-256 of each file that a run trained, and of its scores by example, by its path in the run's folder."""
    parts = (folder.adapter, folder.model)
    left = [folder.held_out, *(path for part in parts for path in sorted(part.rglob("*")))]
    return {path.relative_to(folder.path).as_posix(): _sha256(path) for path in left if path.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
