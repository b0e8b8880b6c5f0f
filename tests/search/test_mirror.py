"""A coordinator's study in memory has what its database has, after each change, and after a kill in between."""

import contextlib
import math
import sqlite3
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from lowrung.errors import StoreError
from lowrung.search.study import Study
from lowrung.store.outcome import Outcome, Status
from tests.search.conftest import Opener, waits_by


def in_database(study: Study, database: Path) -> list[FrozenTrial]:
    """The trials, read as Optuna reads them."""
    return optuna.load_study(study_name=study.name, storage=f"sqlite:///{database}").trials


def described(trials: list[FrozenTrial]) -> list[dict[str, object]]:
    """All of each trial but its id, which is the database's own."""
    return [{name: value for name, value in vars(trial).items() if name != "_trial_id"} for trial in trials]


def test_the_database_has_all_that_memory_has(opened: Opener, database: Path) -> None:
    study = opened(constraints={"params/total": "<= 10"}, objectives={"eval/loss": "minimize"})
    ends = [
        Outcome(Status.COMPLETE, {"eval/loss": 1 / 3, "params/total": 9.0}),
        Outcome(Status.COMPLETE, {"eval/loss": math.inf, "params/total": 11.0}),
        Outcome(Status.PRUNED, {}, cause="worse \N{SNOWMAN}"),
        Outcome(Status.FAILED, {}, cause="because"),
    ]
    for rank, end in zip((4, 8, 4, 8), ends, strict=True):
        trial = study.ask({"lora.r": rank})
        study.note_run(trial, 0, signature="ab12", overrides=["a=1"])
        study.note_run(trial, 0, tracked="")
        for step, value in enumerate((2.5, -math.inf, 1e-300), start=1):
            trial.report(value, step)
        study.tell(trial, end)
    study.ask({"lora.r": 4})
    study.note("facts", {"nested": [1, (2, 3)], "none": None})
    assert described(in_database(study, database)) == described(study.trials)
    again = opened(constraints={"params/total": "<= 10"}, objectives={"eval/loss": "minimize"})
    assert described(again.trials) == described(study.trials)
    assert again.facts == study.facts


@pytest.mark.parametrize("nth", range(6))
def test_a_trial_that_is_asked_for_is_there_with_its_values_or_not_at_all(
    opened: Opener, database: Path, nth: int
) -> None:
    study = opened()
    study.tell(study.ask({"lora.r": 4}), Outcome(Status.COMPLETE, {"eval/loss": 1.0}))
    statements = iter(range(100))

    @event.listens_for(study._mirror._database.engine, "before_cursor_execute")
    def die(*_: object) -> None:
        if next(statements) == nth:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        study.ask({"lora.r": 8}, stage="first")
        raise AssertionError("it was to be killed")
    event.remove(study._mirror._database.engine, "before_cursor_execute", die)
    assert [trial.number for trial in in_database(study, database)] == [0]
    assert opened().ask({"lora.r": 8}).number == 1


def test_a_transaction_whose_answer_was_lost_is_made_once(
    opened: Opener, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened()
    waits_by(monkeypatch, "lowrung.search.storage", lambda seconds: None)
    engine = study._mirror._database.engine
    lost: list[bool] = []
    begin = type(engine).begin

    @contextlib.contextmanager
    def begins(self):
        with begin(self) as connection:
            yield connection
        if not lost:  # after the commit
            lost.append(True)
            raise OperationalError("COMMIT", {}, sqlite3.OperationalError("server closed the connection"))

    for step in (
        lambda: study.ask({"lora.r": 4}),
        lambda: study.judge.report(study.interrupted()[0], 800, {"eval/loss": 2.0}),
        lambda: study.note_run(study.interrupted()[0], 0, signature="ab12"),
        lambda: study.tell(study.interrupted()[0], Outcome(Status.COMPLETE, {"eval/loss": 1.0})),
    ):
        lost.clear()
        with monkeypatch.context() as patched:
            patched.setattr(type(engine), "begin", begins)
            step()
        assert lost
        assert described(in_database(study, database)) == described(study.trials)
    (trial,) = in_database(study, database)
    assert (trial.state, trial.values, trial.intermediate_values) == (TrialState.COMPLETE, [1.0], {1: 2.0})


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_study_that_was_deleted_meanwhile_takes_no_trial_and_no_end(
    opened: Opener, database: Path, is_asked: bool
) -> None:
    study = opened()
    trial = study.ask({"lora.r": 4})
    optuna.delete_study(study_name=study.name, storage=f"sqlite:///{database}")
    with pytest.raises(StoreError, match="was deleted while it ran"):
        study.ask({"lora.r": 4}) if is_asked else study.tell(trial, Outcome(Status.FAILED, cause="because"))


def test_one_that_lacks_a_trial_is_refused(opened: Opener, database: Path) -> None:
    study = opened()
    for rank in (4, 8):
        study.ask({"lora.r": rank})
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "DELETE FROM trials WHERE number = 0 AND study_id = (SELECT study_id FROM studies WHERE study_name = ?)",
            [study.name],
        )
    with pytest.raises(StoreError, match=r"must have all its trials, but .* lacks trial 0"):
        opened()
