"""A sweep in the tracker: one run for the sweep, one child for each run of its trials."""

import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from lowrung.report import leaderboard
from lowrung.store.outcome import Status
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.queue import Finished
from lowrung.sweeps.runs import Run
from lowrung.track import recording
from lowrung.track.tolerant import Tolerant

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from lowrung.search.study import Study


class SweepTracking:
    """Opens and closes the tracker's runs, each once, also where a start of the sweep was killed in between.

    Args:
        tracker: where they are.
        study: remembers the tracker's ids from one start of the sweep to the next.
        plan: the sweep's.
    """

    def __init__(self, tracker: Tolerant, study: "Study", plan: Plan) -> None:
        self.tracker = tracker
        self._study = study
        self._plan = plan
        self._opened: dict[str, str] = {}  # the tracker's ids of the runs that are open, by the runs' keys

    @cached_property
    def parent(self) -> str:
        """The run of the whole sweep, the same for every start of the study."""
        facts = self._study.facts
        known = facts.get("tracked")
        if known is not None and self.tracker.has_run(known):
            return str(known)
        if "key" not in facts:
            self._study.note("key", uuid.uuid4().hex)
        tags = {"lowrung.kind": "sweep", "lowrung.study": self._plan.study}
        parent = self.tracker.start_run(self._plan.study, tags=tags, key=self._study.facts["key"])
        self._study.note("tracked", parent)
        return parent

    @cached_property
    def _reopened(self) -> dict[str, str]:
        """Ids of runs that were opened again after their trials had ended: Optuna takes no notes on ended trials."""
        return dict(self._study.facts.get("tracked anew", {}))

    def open(self, run: Run, trial: "Trial") -> str:
        """Opens a run, unless it is open, and notes it in the study. One that was interrupted keeps its id."""
        if run.key not in self._opened:
            known = self._study.note_run(trial, run.seed, signature=run.folder.path.name).get("tracked")
            tracked = self._opened[run.key] = self._find_or_start(run, known)
            if tracked != known:
                self._study.note_run(trial, run.seed, tracked=tracked)
        return self._opened[run.key]

    def close(self, finished: Finished, trial: "Trial") -> str:
        """Records how a run ended; returns the tracker's id."""
        run = finished.run
        tracked = self.open(run, trial)
        self._record(finished, tracked)
        if not self.tracker.has_all(tracked):
            # The next start finds the run by its key, and records it again.
            self._study.note_run(trial, run.seed, tracked="")
        del self._opened[run.key]
        return tracked

    def reopen(self, run: Run, retry: str) -> None:
        """Tags a run that is tried again with what is different then. Its next attempt opens the tracker's same run."""
        tracked = self._opened.pop(run.key, None)
        if tracked is not None:
            self.tracker.set_tags(tracked, {"lowrung.retry": retry})

    def keep(self, finished: Finished, trial: "FrozenTrial") -> str:
        """Records a run of an earlier start again, where the tracker lacks it or lacks a part of it; returns its id."""
        run = finished.run
        tracked = self._reopened.get(run.key, self._study.runs(trial)[run.seed].get("tracked"))
        if not tracked or not self.tracker.has_run(tracked):
            tracked = self._find_or_start(run, tracked)
            self._record(finished, tracked)
            self._reopened[run.key] = tracked if self.tracker.has_all(tracked) else ""
            self._study.note("tracked anew", self._reopened)
        return str(tracked)

    def cancel(self, run: Run, trial: "Trial") -> None:
        """Closes a run that goes on when the sweep does."""
        tracked = self._opened.pop(run.key, None) or self._study.runs(trial).get(run.seed, {}).get("tracked")
        if tracked:
            self.tracker.end_run(tracked, Status.CANCELLED)

    def _find_or_start(self, run: Run, known: str | None) -> str:
        """The tracker's run that is known of, if the tracker has it; else one with the run's key."""
        if known and self.tracker.has_run(known):
            return known
        tags = {"lowrung.kind": "trial", "lowrung.trial": str(run.trial), "lowrung.study": self._plan.study}
        return self.tracker.start_run(
            leaderboard.name(run.point) or f"trial {run.trial}",
            parent=self.parent,
            params={**run.point, **recording.key_params(run.config)},
            tags={**tags, "lowrung.stage": run.stage} if run.stage else tags,
            key=f"{self.parent}/{run.key}",
        )

    def _record(self, finished: Finished, tracked: str) -> None:
        """Records what came of a run, and closes it, unless the run's own process has."""
        if finished.is_tracked:
            return
        run = finished.run
        data = self._plan.preflight(run.config).splits
        recording.record(self.tracker, tracked, run.folder, finished.outcome, data)
        self.tracker.end_run(tracked, finished.outcome.status)
