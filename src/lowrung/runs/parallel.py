"""A run of several ranks: its processes, from their start to the one outcome that they come to.

The job's own process stays what it is for the engine and the tracker. It computes nothing: the first rank does what it
does in a run of one process, sends its reports here, and asks whether to stop.
"""

import contextlib
import dataclasses
import gc
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lowrung import library_warnings
from lowrung.engine import cores, memory, put_off, worker
from lowrung.engine.process import NO_MEMORY, described_exit
from lowrung.engine.start import CUDA_CHECK, Starter
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status

PRELOAD = ("lowrung.finetune.training.fine_tune", "lowrung.finetune.gate.verify", "lowrung.runs.execution")
"""What each rank imports: once for all of them, where processes can be forked."""

GRACE_SECONDS = 5.0
"""How long the other ranks have, after one has failed, to say that they failed before it."""

NOTICE_SECONDS = 1.0
"""How long it may take until a process that is gone is noticed here; by then the others may have failed of it."""

LOST = "lost_rank"
"""The fact of an outcome that names the rank whose process ended without one."""

OnReport = Callable[[int, Mapping[str, float]], None]
"""Takes a step and its metrics, by MLflow name."""

StopReason = Callable[[], str | None]
"""Says after a step why to stop: ``pruned`` or ``cancelled``; None to go on."""


@dataclasses.dataclass(frozen=True)
class Place:
    """What a rank's process knows of the others.

    Attributes:
        rank: its number.
        count: how many there are.
        meeting: the file where they find each other.
        link: to the process that started them.
        answers: what comes from there.
    """

    rank: int
    count: int
    meeting: Path
    link: "Connection[Any, Any]"
    answers: "queue.SimpleQueue[str | None]"

    def report(self, step: int, metrics: Mapping[str, float]) -> None:
        """Passes on what all ranks have measured alike."""
        if self.rank == 0:
            self.link.send(("report", step, dict(metrics)))

    def stop_reason(self) -> str | None:
        """Why to stop, or None."""
        self.link.send(("stop?",))
        return self.answers.get()

    def end(self, outcome: Outcome) -> None:
        """Says what this rank came to, and when it failed if it did: before the others notice that it is gone."""
        has_failed = outcome.status in (Status.FAILED, Status.OOM)
        self.link.send(("ended", outcome, time.monotonic() if has_failed else None))


Work = Callable[[Place], None]
"""What a rank does until it says its end; it can be pickled."""


# -- in the process of the run -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Rank:
    """A rank as the run's process sees it.

    Attributes:
        process: its process.
        link: to it.
        outcome: what it came to.
        failed_at: when it failed or was lost, by the clock that all processes share; None where it was not, and 0 where
            it was lost by what no other rank did.
    """

    process: BaseProcess
    link: "Connection[Any, Any]"
    outcome: Outcome | None = None
    failed_at: float | None = None

    @property
    def has_ended(self) -> bool:
        return self.process.exitcode is not None


@dataclasses.dataclass(frozen=True)
class Launch:
    """The ranks of a run, to be started.

    Attributes:
        work: what each does.
        count: how many there are.
        threads: CPU threads of each.
        folder: the run's.
    """

    work: Work
    count: int
    threads: int
    folder: RunFolder

    def run(self, on_report: OnReport, stop_reason: StopReason) -> Outcome:
        """Starts the ranks and waits until all have ended; none outlives the call, or this process.

        Args:
            on_report: called with what the first rank reports.
            stop_reason: asked when the first rank asks, after each step.

        Returns:
            the first rank's outcome, with the memory of all; that of the rank that failed first, if one did.
        """
        started, kills = list[_Rank](), memory.KILLS.count
        with tempfile.TemporaryDirectory(prefix="lowrung-") as meeting:  # the store's disk may not lock files
            try:
                self._start(started, Path(meeting) / "ranks")
                _attend(started, on_report, stop_reason)
                return _together(started, kills)
            finally:
                _end(started)

    def _start(self, started: list[_Rank], meeting: Path) -> None:
        starter = Starter(PRELOAD, self.threads, "forkserver")
        starter.try_fork()
        variables = {**os.environ, **cores.thread_variables(self.threads), **CUDA_CHECK}
        for rank in range(self.count):
            ours, theirs = starter.pipe()
            with theirs:
                given = (theirs, rank, self.count, meeting, self.work, self.folder, variables, Path.cwd())
                process = starter.start(_main, given, f"rank {rank}", variables)
            started.append(_Rank(process, ours))


def _attend(ranks: Sequence[_Rank], on_report: OnReport, stop_reason: StopReason) -> None:
    """Answers the ranks until all have ended, or one has failed or all have said their end, and they had time to."""
    deadline = float("inf")
    while True:
        have_ended = [rank.has_ended for rank in ranks]  # asked first: all that they said has come by then
        for rank, has_ended in zip(ranks, have_ended, strict=True):
            _listen(rank, on_report, stop_reason)
            if has_ended and rank.outcome is None and rank.failed_at is None:
                # Only an abort may have come of the others' end: NCCL's watchdog aborts.
                is_cause = rank.process.exitcode != -signal.SIGABRT
                rank.failed_at = 0.0 if is_cause else time.monotonic() - NOTICE_SECONDS
        if any(rank.failed_at is not None for rank in ranks) or all(rank.outcome for rank in ranks):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        left = deadline - time.monotonic()
        if all(have_ended) or left <= 0:
            return
        sentinels = [rank.process.sentinel for rank in ranks if not rank.has_ended]
        sources: list[Any] = [*sentinels, *(rank.link for rank in ranks if not rank.link.closed)]
        connection.wait(sources, None if left == float("inf") else left)


def _listen(rank: _Rank, on_report: OnReport, stop_reason: StopReason) -> None:
    """Takes what a rank has said."""
    while (message := _received(rank)) is not None:
        match message:
            case "report", step, metrics:
                on_report(step, metrics)
            case ("stop?",):
                reason = stop_reason()
                with contextlib.suppress(OSError):  # it has gone meanwhile
                    rank.link.send(reason)
            case "ended", outcome, failed_at:
                rank.outcome, rank.failed_at = outcome, failed_at


def _received(rank: _Rank) -> tuple[Any, ...] | None:
    """The next message of a rank; None where there is none, or no more."""
    try:
        if not rank.link.closed and rank.link.poll():
            message: tuple[Any, ...] = rank.link.recv()
            return message
    except (EOFError, OSError):
        rank.link.close()
    return None


def _together(ranks: Sequence[_Rank], kills: int) -> Outcome:
    """The one outcome of all ranks: that of the first that failed or was lost, of which the others fail.

    Args:
        ranks: all of which have ended, or have failed.
        kills: how many processes the system had ended for want of memory before they began.
    """
    peak = sum(rank.outcome.measurements.get("memory/peak_bytes", 0) for rank in ranks if rank.outcome)
    failed = [(rank.failed_at, number) for number, rank in enumerate(ranks) if rank.failed_at is not None]
    decisive = min(failed)[1] if failed else 0
    outcome = ranks[decisive].outcome or _lost(decisive, ranks, kills)
    return dataclasses.replace(outcome, measurements={**outcome.measurements, "memory/peak_bytes": peak})


def _lost(number: int, ranks: Sequence[_Rank], kills: int) -> Outcome:
    code = ranks[number].process.exitcode or 0
    if code == -signal.SIGKILL and memory.KILLS.explain(kills):
        return Outcome(Status.OOM, cause=f"{NO_MEMORY}: rank {number} of {len(ranks)}")
    how = described_exit(code)
    return Outcome(Status.FAILED, cause=f"rank {number} of {len(ranks)} was lost ({how})", facts={LOST: number})


def _end(ranks: Sequence[_Rank]) -> None:
    for rank in ranks:
        rank.process.kill()
        rank.process.join()
        rank.link.close()


# -- in the process of a rank ------------------------------------------------------------------------------------------


def _main(
    link: "Connection[Any, Any]",
    rank: int,
    count: int,
    meeting: Path,
    work: Work,
    folder: RunFolder,
    variables: Mapping[str, str],
    working_folder: Path,
) -> None:
    """One rank, from its first line to its last."""
    gc.freeze()
    gc.enable()  # see lowrung.engine.uncollected
    worker.go_first()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run's process decides when to stop
        signal.signal(number, signal.SIG_IGN)
    worker.redirect_output(folder.log)
    if rank > 0:  # they would say what the first one says
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(working_folder)
    put_off.load()
    place = Place(rank, count, meeting, link, queue.SimpleQueue())
    threading.Thread(target=_hear, args=(place,), daemon=True).start()
    with _warnings_posted(folder.path) if rank == 0 else contextlib.nullcontext():
        work(place)


def _hear(place: Place) -> None:
    """Takes answers, and ends this process with the one that started it: no orphan trains beside its successor."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            place.answers.put(place.link.recv())
    os.kill(os.getpid(), signal.SIGKILL)


def _warnings_posted(folder: Path) -> contextlib.AbstractContextManager[None]:
    return library_warnings.heard(lambda one: mailbox.warn(folder, dataclasses.asdict(one)))
