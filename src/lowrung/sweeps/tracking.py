"""A sweep in the tracker: one run for the sweep, one child for each run of its trials."""

import uuid
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from lowrung.report import leaderboard
from lowrung.store.outcome import Status
from lowrung.sweeps.plan import Plan
from lowrung.sweeps.queue import Finished, Run
from lowrung.track import recording
from lowrung.track.tolerant import Tolerant

if TYPE_CHECKING:
    from lowrung.search.study import Study


class SweepTracking:
    """Opens and closes the tracker's runs, each once, whatever was killed in between.

    Args:
        tracker: where they are.
        study: remembers the ids over the starts of a sweep.
        plan: the sweep's.
    """

    def __init__(self, tracker: Tolerant, study: "Study", plan: Plan) -> None:
        self.tracker = tracker
        self._study = study
        self._plan = plan

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
    def _anew(self) -> dict[str, str]:
        """The ids of runs that were opened after their trials had ended, when Optuna takes no notes on these."""
        return dict(self._study.facts.get("tracked anew", {}))

    def open(self, run: Run, point: Mapping[str, str]) -> str:
        """Opens a run; one that was interrupted is there already."""
        if run.tracked is not None and self.tracker.has_run(run.tracked):
            return run.tracked
        seed = {"seed": str(run.config.seed)} if self._plan.space.seeds else {}
        return self.tracker.start_run(
            leaderboard.name({**point, **seed}) or f"trial {run.trial}",
            parent=self.parent,
            params={**point, **recording.key_params(run.config)},
            tags={"lowrung.kind": "trial", "lowrung.trial": str(run.trial), "lowrung.study": self._plan.study},
            key=f"{self.parent}/{run.key}",
        )

    def close(self, finished: Finished) -> None:
        """Records how a run ended."""
        run = finished.run
        assert run.tracked is not None
        if not finished.is_tracked:
            data = recording.datasets(self._plan.preflight(run.config).splits)
            recording.record(self.tracker, run.tracked, run.folder, finished.outcome, data)
        self.tracker.end_run(run.tracked, finished.outcome.status)

    def keep(self, finished: Finished, point: Mapping[str, str]) -> None:
        """Records a run of an earlier start anew, where the tracker lacks it, or was lost before it had all of it."""
        run = finished.run
        run.tracked = self._anew.get(run.key, run.tracked)
        if not run.tracked or not self.tracker.has_run(run.tracked):
            run.tracked = self.open(run, point)
            self.close(finished)
            self._anew[run.key] = run.tracked if self.tracker.has_all(run.tracked) else ""
            self._study.note("tracked anew", self._anew)

    def cancel(self, runs: Iterable[Run]) -> None:
        """Closes runs that go on when the sweep does."""
        for run in runs:
            if run.tracked is not None:
                self.tracker.end_run(run.tracked, Status.CANCELLED)
