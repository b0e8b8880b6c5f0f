"""A sweep in the tracker: one run for the sweep, one child for each run of its trials."""

import dataclasses
import math
import shlex
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from lowrung.report import leaderboard
from lowrung.store.layout import CHECKOUT
from lowrung.store.outcome import Status
from lowrung.sweeps.happened import Finished
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.runs import Run
from lowrung.track import pages, recording
from lowrung.track.base import Child, Opening, Point, Tracker, chosen_experiment
from lowrung.track.owed import Owed, RunRecord, SweepRecord
from lowrung.track.pages import View

if TYPE_CHECKING:
    from lowrung.search.study import Study

LAST_SECONDS = 30.0
"""How long a sweep that has ended waits for its tracker; `lowrung sync` sends what is missing then."""

SERVED = "http://127.0.0.1:5000"
"""Where `lowrung ui` serves a store that is no server itself."""


@dataclasses.dataclass(frozen=True)
class Known:
    """What the tracker has of a sweep when it starts.

    Attributes:
        sweep: the id of its run.
        page: its page's address, after the server's own; None where there is none.
        children: its trials' runs, by their keys.
    """

    sweep: str
    page: str | None
    children: Mapping[str, Child]


class SweepTracking:
    """Has a sweep recorded, and its runs, each once; nothing waits for the tracker but the start and the end.

    What a run's own process has not recorded is recorded here. What is known of a run is in the store, so that it can
    be sent again: by the sweep's next start, or by `lowrung sync`.

    Args:
        study: remembers the sweep's key from one start to the next.
        plan: the sweep's.
        is_known: whether all of its runs may have results: then they are recorded after the leaderboard is printed.

    Raises:
        UsageError: when the store can never be used.
    """

    def __init__(self, study: "Study", plan: Plan, *, is_known: bool = False) -> None:
        if "key" not in study.facts:
            study.note("key", uuid.uuid4().hex)
        self._plan = plan
        self._uri = recording.tracking_uri(plan.config)
        spaces = plan.search.all_spaces
        axes = dict.fromkeys(key for space in spaces for key in (*space.keys, *(["seed"] if space.seeds else [])))
        self._view = View(list(axes), dict(plan.settings.objectives))
        tags = {"lowrung.kind": "sweep", "lowrung.study": plan.study}
        self._opening = Opening(plan.study, study.facts["key"], _searched(plan), tags)
        self.sender = recording.sender(plan.config, may_lack_nothing=is_known)
        asked = self.sender.send(lambda _: True, plan.study) if is_known else None
        if asked is not None and recording.first_answer(self.sender, plan.config, asked):
            self.sender.hold()  # to import MLflow, where it lacks a run, takes as long as all that comes before
        self._known = self.sender.send(self._open, plan.study)
        if asked is None:
            recording.first_answer(self.sender, plan.config, self._known)
        self._sent: dict[str, tuple[RunRecord, Future[str]]] = {}
        self._left_to: set[str] = set()
        self._late: Future[str] | None = None
        self._keys: defaultdict[int, list[str]] = defaultdict(list)
        self._best: tuple[Mapping[str, float], int, float] = ({}, 0, 0.0)
        self._spent: Point | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return self._uri is not None

    def _open(self, tracker: Tracker) -> Known:
        sweep = self._opening.open(tracker)
        return Known(sweep, tracker.present(sweep, self._view), tracker.children(sweep))

    def go_on(self) -> None:
        """Has recorded what was put off until the leaderboard is printed: a run is to be trained or waited for.

        Raises:
            UsageError: when the store can never be used.
        """
        if self.sender.is_held:
            self.sender.go_on()
            recording.first_answer(self.sender, self._plan.config, self._known)

    def opening(self, run: Run) -> Opening | None:
        """How the tracker's run of a run begins, for its own process; None where that one would wait in vain.

        So it would where the sweep is not open there yet, and where an earlier one did, until the tracker has that run.
        """
        self.go_on()
        if not (self.sender.answers and _is_sent(self._known) and (self._late is None or self._late.done())):
            return None
        self._left_to.add(run.key)
        return self._part(run).of(self._known.result().sweep)

    def close(self, finished: Finished) -> None:
        """Has recorded how a run ended, unless its own process has recorded it."""
        self._keys[finished.run.trial].append(finished.run.key)
        if not finished.is_tracked:
            self._send(finished)
            if finished.run.key in self._left_to & self._sent.keys() and finished.outcome.status.is_kept:
                self._late = self._sent[finished.run.key][1]
            if self.sender.problem is not None:  # in case that this process is killed before the tracker is back
                self._leave(self._broken_off, is_closed=True)

    def keep(self, finished: Finished) -> None:
        """Has a run of an earlier start recorded, where the tracker lacks it or lacks a part of it."""
        self._keys[finished.run.trial].append(finished.run.key)
        self._send(finished)

    def cancel(self, run: Run) -> None:
        """Closes a run that goes on when the sweep does."""

        def end(tracker: Tracker) -> None:
            opened = tracker.find(f"{self._known.result().sweep}/{run.key}")
            if opened is not None:
                tracker.end_run(opened, Status.CANCELLED)

        self.sender.send(end, run.title)

    def tag(self, trial: int, tags: Mapping[str, str]) -> None:
        """Tags the runs of a trial that has ended."""
        for key in self._keys[trial]:
            if key in self._sent:  # in what is sent later too
                part, sent = self._sent[key]
                self._sent[key] = part.tagged(tags), sent

            def tag(tracker: Tracker, key: str = key) -> None:
                run = tracker.find(f"{self._known.result().sweep}/{key}")
                if run is not None:
                    tracker.set_tags(run, tags)

            self.sender.send(tag, f"trial {trial}")

    def note_best(self, row: leaderboard.TrialRow, ended: int) -> None:
        """Gives the sweep's run the best trial's metrics so far, over the number of trials that have ended.

        MLflow's charts are empty for a run without metrics; this way they show the search's progress.
        """
        numbers = {name: value for name, value in row.outcome.numbers.items() if math.isfinite(value)}
        self._best = numbers, ended, time.time()
        point, tags = Point(ended, self._best[2], numbers), best_tags(row)

        def note(tracker: Tracker) -> None:
            tracker.log(self._known.result().sweep, [point])
            tracker.set_tags(self._known.result().sweep, tags)

        self.sender.send(note, self._plan.study)

    def note_spent(self, jobs: int, spent: Mapping[str, float]) -> None:
        """Gives the sweep's run what the jobs that have ended took of the budget, over their number.

        Args:
            jobs: how many they are.
            spent: by name; nothing without a budget, and then nothing is sent.
        """
        if not spent:
            return
        point = self._spent = Point(jobs, time.time(), spent)
        self.sender.send(lambda tracker: tracker.log(self._known.result().sweep, [point]), self._plan.study)

    def break_off(self) -> None:
        """Closes the run of a sweep that ends early; it is opened again when it goes on."""
        self.sender.send(
            lambda tracker: tracker.end_run(self._known.result().sweep, Status.CANCELLED), self._plan.study
        )
        self.sender.go_on()
        is_closed = self.sender.drain(recording.PATIENCE_SECONDS)
        self._leave(self._broken_off, is_closed=is_closed)
        self.sender.close()

    def end(self, status: Status, tags: Mapping[str, str], files: Sequence[Path]) -> None:
        """Records the end of the sweep, and says where it can be seen, or what is missing there.

        Args:
            status: how it ended.
            tags: what was found.
            files: to keep with it.
        """
        sweep = SweepRecord(self._opening, status, tags, *self._best, [str(file) for file in files], self._spent)
        closed = self.sender.send(sweep.send, self._plan.study)
        if self.sender.is_held:  # in case that this process is killed, or told to end, while all of it is recorded
            self._leave(sweep, is_closed=False, is_said=False)
        self.sender.go_on()
        self.sender.drain(LAST_SECONDS)
        self._leave(sweep, is_closed=_is_sent(closed))
        self.sender.close()
        if self._uri is not None and _is_sent(self._known):
            self._say_where()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _part(self, run: Run) -> Opening:
        """How the tracker's run of a run begins; its key is the run's alone."""
        tags = {"lowrung.kind": "trial", "lowrung.trial": str(run.trial), "lowrung.study": self._plan.study}
        if run.stage:
            tags["lowrung.stage"] = run.stage
        if run.why_halved:
            tags["lowrung.retry"] = run.why_halved
        name = leaderboard.name(run.point) or f"trial {run.trial}"
        return Opening(name, run.key, {**run.point, **recording.key_params(run.config)}, tags)

    def _send(self, finished: Finished) -> None:
        if self._uri is None:
            return
        run, outcome = finished.run, finished.outcome
        data = self._plan.preflight(run.config).splits
        part = RunRecord(self._part(run), str(run.folder.path), outcome.status, outcome.cause, list(data))

        def send(tracker: Tracker) -> str:
            known = self._known.result()
            record = part.of(known.sweep)
            child = known.children.get(record.opening.key)
            is_there = child is not None and child.holds(outcome.status, run.folder.path.name)
            return child.run if child is not None and is_there else record.send(tracker)

        self._sent[run.key] = part, self.sender.send(send, part.opening.name)

    @property
    def _broken_off(self) -> SweepRecord:
        """The end of a sweep that goes on some time."""
        return SweepRecord(self._opening, Status.CANCELLED, {}, *self._best, [], self._spent)

    def _leave(self, sweep: SweepRecord, *, is_closed: bool, is_said: bool = True) -> None:
        """Writes down what has not been sent, in place of an older list, and says so at the sweep's own end.

        Args:
            sweep: its end, as far as it is known.
            is_closed: whether the tracker has that.
            is_said: whether to say so.
        """
        if self._uri is None:
            return
        runs = [part for part, sent in self._sent.values() if not _is_sent(sent)]
        experiment = chosen_experiment(self._plan.config.track.experiment)
        owed = sweep if runs or not is_closed else None
        Owed(self._uri, experiment, owed, runs).write(self._plan.folder.untracked)
        missing = [part.opening.name for part in runs] + ["the sweep's end"] * (not is_closed)
        if missing and is_said and sweep.status is not Status.CANCELLED:
            print(f"warning: not tracked: {', '.join(missing)}. lowrung sync {self._name} sends it.")

    @property
    def _name(self) -> str:
        """What `lowrung sync` finds the study by, from this folder, as a shell reads it; no name is an option."""
        path, study = self._plan.folder.path.absolute(), self._plan.study
        is_found = path == Path.cwd() / "multirun" / study and not study.startswith("-")
        return shlex.quote(study if is_found else str(path))

    def _say_where(self) -> None:
        page = self._known.result().page
        if page is None:
            return
        if str(self._uri).startswith("http"):
            print(f"compare:  {str(self._uri).rstrip('/')}/{page}")
        else:
            served = f"{SERVED}/{pages.SHORT}/{quote(self._plan.study, safe='')}"
            print(f"compare:  {'lowrung' if CHECKOUT is None else 'make'} ui, then {served}")


def best_tags(row: leaderboard.TrialRow) -> dict[str, str]:
    """What the sweep's run says of its best trial."""
    return {"lowrung.best_trial": str(row.number), "lowrung.best": leaderboard.name(row.point)}


def _searched(plan: Plan) -> dict[str, str]:
    """The search space, by key; where a key has other values in several spaces or stages, they are joined.

    Sorted: a tracker's parameters never change, and the same study may be written in another order.
    """
    texts: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for space in plan.search.all_spaces:
        described = space.described()
        for key, text in {**described["axes"], **described["seeds"]}.items():
            texts[key][text] = None
    return {key: " | ".join(sorted(found)) for key, found in texts.items()}


def _is_sent(sent: "Future[str] | Future[Known]") -> bool:
    return sent.done() and not sent.cancelled() and sent.exception() is None
