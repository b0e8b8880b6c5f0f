"""What a sweep returns to the program that started it."""

from pathlib import Path

from lowrung.store.outcome import Status
from tests.stage import Stage


def test_a_sweep_returns_its_trials_best_first(here: Stage) -> None:
    here.sweep("lora.r=4,8", "seed=0,1")
    results = here.results
    assert results is not None
    best, second = results.trials
    assert (results.best, best.number, second.number) == (best, 1, 0)
    assert (best.point, best.outcome.status) == ({"lora.r": "8"}, Status.COMPLETE)
    assert best.outcome.metrics["eval/loss"] < second.outcome.metrics["eval/loss"]
    assert [run.seed for run in best.seeds] == [0, 1]
    assert all((Path(run.folder) / "outcome.json").is_file() for run in best.seeds)
    assert results.folder.leaderboard.is_file()
    assert results.objectives == {"eval/loss": "minimize"}


def test_a_dry_run_returns_nothing(here: Stage) -> None:
    here.sweep("lora.r=4", "hydra.sweeper.dry_run=true")
    assert here.results is None
