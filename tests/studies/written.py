"""Studies that are written rather than trained: all the files that a sweep leaves, with numbers that are made up."""

import dataclasses
import datetime
import json
import math
import os
import random
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml  # type: ignore[import-untyped]
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import insert

from lowrung.report import leaderboard, verdict
from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.search.study import CLOCK
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import RunFolder, StudyFolder, point_to
from lowrung.store.outcome import Outcome, Status, over_seeds
from lowrung.version import __version__

RANKS, RATES = (4, 8, 16, 64), (1e-5, 1e-3)
LOSS = {"eval/loss": "minimize"}
BEGIN = 1_790_000_000.0
"""When the first trial began, in seconds since 1970."""
SECONDS = 60.0
"""How long a run takes."""


@dataclasses.dataclass
class Written:
    """A study to write.

    Attributes:
        root: gets ``multirun/`` and ``runs/``.
        statuses: of the trials, by number; None of one that has not ended.
        seeds: of each trial.
        steps: of each run; a report each, and an evaluation at every tenth.
        losses: of the trials; made up where there is none.
        name: the study's.
        objectives: metrics with ``minimize`` or ``maximize``.
        metrics: more metrics of each run.
        facts: more facts of each complete run.
        points: of the trials; made up where there is none.
        has_ended: whether there are a leaderboard and a verdict.
        version: of lowrung, that the runs were made with.
    """

    root: Path
    statuses: Sequence[Status | None] = (Status.COMPLETE, Status.COMPLETE, Status.PRUNED, Status.FAILED)
    seeds: Sequence[int] = (0,)
    steps: int = 20
    losses: Mapping[int, float] = dataclasses.field(default_factory=dict)
    name: str = "words"
    objectives: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(LOSS))
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    has_ended: bool = True
    version: str = __version__

    def __post_init__(self) -> None:
        self.random = random.Random(0)
        self.folder = StudyFolder(self.root / "multirun" / self.name)

    def write(self) -> StudyFolder:
        """Writes all of it."""
        self.folder.path.mkdir(parents=True)
        sweeper = {"objectives": None, "n_trials": len(self.statuses), "sampler": {"name": "tpe"}, "pruner": None}
        sweeper["objectives"] = None if self.objectives == LOSS else dict(self.objectives)
        groups: dict[str, dict[str, str]] = {name: {} for name in ("model", "data", "lora", "train")}
        self.folder.config.write_text(yaml.safe_dump({"hydra": {"sweeper": sweeper}, "study": self.name, **groups}))
        rows = [self._trial(number, status) for number, status in enumerate(self.statuses)]
        self._database(rows)
        if self.has_ended:
            self._end([row for row in rows if row.outcome is not None])
        return self.folder

    def signature(self, number: int, seed: int) -> str:
        """Of a run, which names its folder."""
        return f"{zlib.crc32(self.name.encode()):08x}{number:04x}{seed:04x}"

    def run(self, number: int, seed: int = 0) -> RunFolder:
        """The folder of a run."""
        return RunFolder(self.root / "runs" / self.signature(number, seed))

    def point(self, number: int) -> dict[str, Any]:
        """The values of a trial."""
        if self.points:
            return dict(self.points[number])
        rate = RATES[0] * (RATES[1] / RATES[0]) ** random.Random(number).random()
        return {"lora.r": RANKS[number % len(RANKS)], "train.learning_rate": rate}

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _trial(self, number: int, status: Status | None) -> TrialRow:
        outcomes = {seed: self._run(number, seed, status) for seed in self.seeds}
        for seed in self.seeds:
            job = self.folder.job(number).path
            job = job / f"seed_{seed}" if len(self.seeds) > 1 else job
            point_to(job / "run", self.run(number, seed).path)
            (job / ".hydra").mkdir()
            given = [f"{key}={value}" for key, value in self.point(number).items()]
            (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([f"study={self.name}", *given]))
        outcome: Any = None if status is None else over_seeds(outcomes)
        runs = [Seed(seed, each, str(self.run(number, seed).path)) for seed, each in outcomes.items() if status]
        point = {key: str(value) for key, value in self.point(number).items()}
        return TrialRow(number, point, outcome, runs)

    def _run(self, number: int, seed: int, status: Status | None) -> Outcome:
        folder = self.run(number, seed)
        folder.path.mkdir(parents=True)
        loss = self.losses.get(number, 2.5 + self.random.random())
        steps = self.steps if status is Status.COMPLETE else self.steps // 2
        begin = BEGIN + number * SECONDS
        environment = {"lowrung": self.version, "versions": {"torch": "2.13.0"}, "device": "cpu", "threads": 2}
        folder.environment.write_text(json.dumps({**environment, "signature": folder.path.name}))
        folder.config.write_text("seed: 0\n")
        lines = [json.dumps(self._report(step, steps, loss, begin)) + "\n" for step in range(steps + 1)]
        folder.reports.write_text("".join(lines))
        if status is None:
            return Outcome(Status.CANCELLED)
        outcome = self._outcome(folder, status, loss)
        outcome.write(folder.outcome)
        os.utime(folder.outcome, (begin + SECONDS, begin + SECONDS))
        return outcome

    def _report(self, step: int, steps: int, loss: float, begin: float) -> Mapping[str, Any]:
        now = loss + 2 * math.exp(-5 * step / steps)
        metrics = {"train/loss": now, "train/grad_norm": 1.0, "train/learning_rate": 1e-4, "train/tokens": 500.0 * step}
        if step % 10 == 0:
            metrics = {"eval/loss": now, "eval/perplexity": math.exp(now), "train/tokens": 500.0 * step}
        return {"step": step, "time": begin + 5 + step * 45 / steps, "metrics": metrics}

    def _outcome(self, folder: RunFolder, status: Status, loss: float) -> Outcome:
        measurements = {"time/total_seconds": SECONDS - 1, "memory/peak_bytes": 2e9}
        if status is not Status.COMPLETE:
            return Outcome(status, {}, measurements, cause=f"it is {status}", signature=folder.path.name)
        shared, own = np.random.default_rng(0), np.random.default_rng(int(folder.path.name, 16))
        nll = 10 * loss + shared.normal(size=32) + 0.1 * own.normal(size=32)
        tokens = np.full(32, 10)
        HeldOut("held out", tokens, nll, tokens // 2).write(folder.held_out)
        ranks = {f"model.layers.{i}.q_proj": {"rank": 4, "scaling": 8.0} for i in range(210)}
        found = float(nll.sum() / tokens.sum())
        metrics = {
            **{"base/eval_loss": 4.0, "eval/loss": found, "eval/perplexity": math.exp(found)},
            **{"params/trainable": 1e6, "merge/max_abs_logit_diff": 5e-5, "merge/passed": 1.0, **self.metrics},
        }
        facts = {"ranks": ranks, "gate_failures": [], **self.facts}
        return Outcome(status, metrics, measurements, facts=facts, signature=folder.path.name)

    # -- the study -----------------------------------------------------------------------------------------------------

    def _distribution(self, key: str) -> BaseDistribution:
        if not self.points and key == "train.learning_rate":
            return FloatDistribution(*RATES, log=True)
        return CategoricalDistribution(list(dict.fromkeys(self.point(i)[key] for i in range(len(self.statuses)))))

    def _database(self, rows: Sequence[TrialRow]) -> None:
        """In one transaction: Optuna's own takes 0.4 s a trial."""
        storage = RDBStorage(f"sqlite:///{self.folder.database}")
        directions = [optuna.study.StudyDirection[way.upper()] for way in self.objectives.values()]
        study = storage.create_new_study(directions, self.name)
        distributions = {key: self._distribution(key) for key in self.point(0)} if self.statuses else {}
        axes = {key: "interval(1e-05,0.001)" if not self.points and "rate" in key else "4,8" for key in distributions}
        seeds = {"seed": ",".join(map(str, self.seeds))} if len(self.seeds) > 1 else {}
        purpose = {"axes": axes, "seeds": seeds, "objectives": dict(self.objectives), "constraints": {}}
        inputs = {"model.path": "embedded:tiny", "data.name": "number_words"}
        clock = {"0": time.localtime(BEGIN).tm_gmtoff}
        for key, value in {"purpose": purpose, "inputs": inputs, CLOCK: clock}.items():
            storage.set_study_user_attr(study, key, value)
        with storage.engine.begin() as connection:
            for row in rows:
                self._record(connection, study, row, distributions)
        storage.engine.dispose()

    def _record(
        self, connection: Any, study: int, row: TrialRow, distributions: Mapping[str, BaseDistribution]
    ) -> None:
        status = self.statuses[row.number]
        states = {None: TrialState.RUNNING, Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED}
        begin = datetime.datetime.fromtimestamp(BEGIN + row.number * SECONDS - 0.2)
        end = None if status is None else begin + datetime.timedelta(seconds=SECONDS)
        trial: dict[str, Any] = {"trial_id": row.number + 1}
        times = {"datetime_start": begin, "datetime_complete": end}
        values = {"study_id": study, "number": row.number, "state": states.get(status, TrialState.FAIL), **times}
        connection.execute(insert(models.TrialModel).values(**trial, **values))
        for key, value in self.point(row.number).items():
            kept = {"param_name": key, "param_value": distributions[key].to_internal_repr(value)}
            text = distribution_to_json(distributions[key])
            connection.execute(insert(models.TrialParamModel).values(**trial, **kept, distribution_json=text))
        facts: dict[str, Any] = {f"run/{s}": {"signature": self.signature(row.number, s)} for s in self.seeds}
        if status is not None:
            facts |= {"status": str(status), **({"cause": row.outcome.cause} if row.outcome.cause else {})}
        for key, value in facts.items():
            known = {"key": key, "value_json": json.dumps(value)}
            connection.execute(insert(models.TrialUserAttributeModel).values(**trial, **known))
        if status is Status.COMPLETE and self.objectives.keys() <= row.outcome.metrics.keys():
            for objective, name in enumerate(self.objectives):
                found = {"objective": objective, "value": row.outcome.metrics[name], "value_type": "FINITE"}
                connection.execute(insert(models.TrialValueModel).values(**trial, **found))

    def _end(self, rows: Sequence[TrialRow]) -> None:
        made = verdict.make(rows, self.objectives)
        against = {int(number): standing for number, standing in made.record["trials"].items()}
        leaderboard.write(self.folder.leaderboard, rows, self.objectives, against)
        self.folder.verdict.write_text(json.dumps(made.record))


if __name__ == "__main__":  # python -m tests.studies.written FOLDER TRIALS
    import sys

    started, count = time.time(), int(sys.argv[2])
    ends = [(Status.COMPLETE, Status.COMPLETE, Status.PRUNED, Status.FAILED)[i % 4] for i in range(count)]
    made = Written(Path(sys.argv[1]), ends, has_ended="--running" not in sys.argv)
    print(made.write().path, f"{time.time() - started:.1f} s")
