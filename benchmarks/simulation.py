"""An engine whose runs take no time: their lengths pass on a virtual clock, the coordinator's own time is real."""

import dataclasses
import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from hydra.core.utils import JobReturn, JobStatus

from lowrung.engine.base import Ended, Event, Exit, Job, Reported
from lowrung.errors import EngineError
from lowrung.finetune.data.split import Split
from lowrung.finetune.found import Preflight
from lowrung.runs.task import Ran
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track.base import Point

MEDIAN_SECONDS = 60.0
"""A short run, of which the coordinator's time is a large part."""

SIGMA = 0.7
"""Of the lengths' logarithm: one run in ten is more than 2.5 times as long as the median, as over ranks and sizes."""

REPORTS = 3
"""Evaluations of a run: two on its way, and one at its end."""

TOKENS = 10_000
"""Trained on between two evaluations."""

PREFLIGHT = Preflight(
    model_fingerprint="model",
    learning_rate=1e-3,
    data_fingerprint="data",
    splits=(
        Split("number_words", "training", "simulated", "training", 512),
        Split("number_words", "evaluation", "simulated", "evaluation", 64),
    ),
    data_folder=Path("tokens"),
)
"""What the preflight finds; it is no part of what is measured."""

METRICS = (
    *("base/eval_loss", "eval/perplexity", "eval/token_accuracy", "eval/exact_match", "adapter/bytes"),
    *(f"params/{name}" for name in ("trainable", "total", "trainable_percent")),
    *(f"params/trainable/{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")),
    *(f"merge/{name}" for name in ("passed", "adapter_effect")),
    *(
        f"merge/{precision}{name}"
        for precision in ("", "bfloat16/")
        for name in ("max_abs_logit_diff", "mean_kl", "top1_agreement", "eval_loss_delta", "greedy_agreement")
    ),
)
"""What a complete run has besides its loss: as many numbers as a real one, since each is written to the tracker."""

MEASUREMENTS = ("time/train_seconds", "time/total_seconds", "train/tokens_per_second", "merge/speedup")


def lengths(runs: int, seed: int) -> list[float]:
    """Seconds that each run takes, drawn from a lognormal distribution."""
    draw = random.Random(seed)
    return [MEDIAN_SECONDS * draw.lognormvariate(0.0, SIGMA) for _ in range(runs)]


@dataclasses.dataclass(frozen=True)
class Simulated(Ran):
    """What a run returns: that it has recorded itself, as a real one has in its own process, and its loss."""

    loss: float


@dataclasses.dataclass(order=True)
class _Due:
    """What happens to a run at a moment: a report, or after the last one its end."""

    at: float
    order: int
    job: Job = dataclasses.field(compare=False)
    report: int | None = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Mark:
    """The coordinator at the moment in which it submits a run.

    Attributes:
        seconds: that it has worked so far, the set-up before the first run included.
        cpu_seconds: those of the processor's in which it worked; they do not grow where others use the machine.
        memory: bytes of its process in RAM.
    """

    seconds: float
    cpu_seconds: float
    memory: int


class SimulatedEngine:
    """Implements `lowrung.engine.base.Engine`: each job reports, leaves an outcome and ends when its time has come.

    The clock stands while the engine works, jumps to the next event where the coordinator waits for it, and goes on
    with real time while the coordinator works. A run that ends meanwhile leaves its slot idle until the coordinator is
    back. A timeout is not kept: the coordinator is called when something has happened. No task is run, and none is
    stopped.

    Args:
        lengths: virtual seconds of the runs, in the order in which they are submitted.
        slots: how many run at the same time.
        seed: of the runs' results.
        clock: real seconds from any fixed moment. One that stands makes a coordinator that takes no time.

    Attributes:
        threads: CPU threads of each job.
        marks: the coordinator at each run's submission, and at its end.
    """

    def __init__(
        self, lengths: Sequence[float], slots: int, seed: int = 0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._lengths = iter(lengths)
        self._slots = slots
        self._draw = random.Random(seed)
        self._clock = clock
        self._due: list[_Due] = []
        self._order = itertools.count()
        self._running: set[str] = set()
        self._ended: list[Event] = []
        self._now = self._first = self._last = self._busy = 0.0
        self.threads = 1
        self._spent = self._cpu_spent = 0.0
        self.marks: list[Mark] = []
        self._leave()

    @property
    def slots(self) -> int:
        """How many jobs run at the same time."""
        return self._slots

    @property
    def makespan(self) -> float:
        """Virtual seconds from the first run's start to the last one's end."""
        return self._last - self._first

    @property
    def idle_share(self) -> float:
        """The part of the slots' time in which they trained nothing, from the first start to the last end."""
        return 1 - self._busy / (self._slots * self.makespan)

    def preload(self) -> None:
        """Does nothing; see `lowrung.engine.base.Engine.preload`."""

    def adopt(self, key: str, folder: Path) -> bool:
        """Finds none; see `lowrung.engine.base.Engine.adopt`."""
        return False

    def submit(self, job: Job) -> None:
        """Starts a job now; see `lowrung.engine.base.Engine.submit`."""
        self._enter()
        if len(self._running) >= self._slots:
            raise EngineError(f"A job needs a free slot, but {job.key} came while all {self._slots} are taken.")
        if job.folder.name == "preflight":
            self._ended.append(Ended(job.key, Exit.RETURNED, (PREFLIGHT, [])))
        else:
            self._start(job)
        self._leave()

    def _start(self, job: Job) -> None:
        if not self.marks:
            self._first = self._now
        self._mark()
        self._running.add(job.key)
        job.folder.mkdir(parents=True, exist_ok=True)
        mailbox.clear(job.folder)
        length = next(self._lengths)
        self._busy += length
        for report in range(1, REPORTS):
            self._at(self._now + length * report / REPORTS, job, report)
        self._at(self._now + length, job, REPORTS)  # at one moment, in this order
        self._at(self._now + length, job, None)

    def _at(self, moment: float, job: Job, report: int | None) -> None:
        heapq.heappush(self._due, _Due(moment, next(self._order), job, report))

    def wait(self, timeout: float | None = None) -> Sequence[Event]:
        """Lets the clock go on to the next event; see `lowrung.engine.base.Engine.wait`."""
        self._enter()
        events, self._ended = self._ended, []
        if not events and self._due:
            self._now = max(self._now, self._due[0].at)
            while self._due and self._due[0].at <= self._now:
                events.append(self._happen(heapq.heappop(self._due)))
        self._leave()
        return events

    def _happen(self, due: _Due) -> Event:
        if due.report is not None:
            metrics = {"eval/loss": self._draw.uniform(1, 4), "train/tokens": float(TOKENS * due.report)}
            report = dataclasses.asdict(Point(due.report, time.time(), metrics))
            mailbox.post(due.job.folder, report)
            return Reported(due.job.key, report)
        self._last = due.at
        self._running.discard(due.job.key)
        loss = self._draw.uniform(1, 4)
        metrics = {"eval/loss": loss, **{name: self._draw.random() for name in METRICS}, "merge/passed": 1.0}
        measurements = {name: self._draw.random() for name in MEASUREMENTS}
        outcome = Outcome(Status.COMPLETE, metrics, measurements, signature=due.job.folder.name)
        outcome.write(RunFolder(due.job.folder).outcome)
        returned = JobReturn(status=JobStatus.COMPLETED)
        returned.return_value = Simulated(Status.COMPLETE, is_tracked=True, loss=loss)
        return Ended(due.job.key, Exit.RETURNED, returned)

    def waiting(self, key: str) -> None:
        """None: jobs begin at once."""

    def tidy(self, folder: Path) -> None:
        """Finds nothing."""

    def cancel(self, key: str) -> None:
        """Ends a job by force; see `lowrung.engine.base.Engine.cancel`."""
        if key in self._running:
            self._running.discard(key)
            self._due = [due for due in self._due if due.job.key != key]
            heapq.heapify(self._due)
            self._ended.append(Ended(key, Exit.CANCELLED, cause="cancelled"))

    def close(self) -> None:
        """Takes the coordinator's time for the last time."""
        self._enter()
        self._mark()
        self._leave()

    def _mark(self) -> None:
        self.marks.append(Mark(self._spent, self._cpu_spent, resident_bytes()))

    def _enter(self) -> None:
        """Takes the time that the coordinator worked."""
        spent = self._clock() - self._left_at
        self._now += spent
        self._spent += spent
        self._cpu_spent += time.process_time() - self._left_at_cpu

    def _leave(self) -> None:
        self._left_at = self._clock()
        self._left_at_cpu = time.process_time()


def resident_bytes() -> int:
    """This process's memory in RAM."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def free_slot_makespan(lengths: Sequence[float], slots: int) -> float:
    """Seconds that runs take, each started as soon as a slot is free, when starting costs nothing."""
    free = [0.0] * slots
    for length in lengths:
        heapq.heappush(free, heapq.heappop(free) + length)
    return max(free)


def batch_makespan(lengths: Sequence[float], slots: int) -> float:
    """Seconds that runs take in batches as wide as the slots, each waiting for its slowest."""
    return sum(max(lengths[first : first + slots]) for first in range(0, len(lengths), slots))
