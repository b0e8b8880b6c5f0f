"""A study's lock, its database, and its fresh start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna import load_study

from lowrung.config.schema import Config
from lowrung.errors import StoreError, UsageError
from lowrung.store import atomic
from lowrung.store.outcome import Outcome
from lowrung.track import recording
from tests.stage import trains


class TestOneCoordinator:
    @pytest.mark.slow
    def test_a_second_one_is_refused_before_it_asks(self, here):
        here.sweep("lora.r=4")
        with (
            atomic.lock(here.study.lock),
            pytest.raises(UsageError, match=r"'s' is run by another process in .*multirun"),
        ):
            here.sweep("lora.r=4")
        assert len(here.trials()) == 1

    def test_it_holds_the_lock_while_trials_run(self, here):
        def act(config: Config) -> Outcome:
            with pytest.raises(StoreError), atomic.lock(here.study.lock):
                pass
            return trains(config)

        here.sweep("lora.r=4", act=act)
        with atomic.lock(here.study.lock):
            pass


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("track.uri=nonsense://x", "track.uri must be a database or a server"),
        ("hydra.sweeper.storage=sqlite:///text", "storage must be a database that opens"),
        ("track.experiment=deleted", "no such experiment"),
    ],
)
def test_a_sweep_that_is_refused_leaves_no_study(here, monkeypatch, setting, said):
    def answer(sender, config, opened):
        raise UsageError("no such experiment")

    monkeypatch.setattr(recording, "first_answer", answer)
    Path("text").write_text("no database" * 10)
    with pytest.raises(UsageError, match=said):
        here.sweep("lora.r=4,8", setting, "hydra.sweep.dir=deep/er")
    assert not Path("deep").exists()


@pytest.mark.slow
def test_a_refused_start_leaves_what_an_earlier_one_has_done(here):
    here.sweep("lora.r=4")
    with pytest.raises(UsageError, match="made for another"):
        here.sweep("lora.r=4", "hydra.sweeper.objectives={params/trainable:minimize}")
    assert len(here.trials()) == 1


@pytest.mark.slow
def test_fresh_starts_the_study_over_and_keeps_the_results(here):
    here.sweep("lora.r=4,8")
    assert here.sweep("lora.r=4,8", "hydra.sweeper.fresh=true") == []
    assert [trial.number for trial in here.trials()] == [0, 1]
    assert len(here.tracker.runs) == 6  # a parent and two children each time


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[str]:
    """The address of a server that runs for one test."""
    with pytest.importorskip("pgserver").get_server(tmp_path / "postgresql") as server:
        yield server.get_uri().replace("postgresql://postgres:@", "postgresql://postgres@")


class TestStorage:
    @pytest.mark.slow
    @pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
    def test_a_database_of_ones_own(self, here, request, kind):
        address = "sqlite:///all.db" if kind == "sqlite" else request.getfixturevalue("postgresql")
        sweep = ["lora.r=4,8", f"hydra.sweeper.storage='{address}'"]
        here.sweep(*sweep)
        assert len(load_study(study_name="s", storage=address).trials) == 2
        assert here.sweep(*sweep) == []
        here.sweep(*sweep, "hydra.sweeper.fresh=true")
        assert len(load_study(study_name="s", storage=address).trials) == 2

    def test_a_file_that_is_no_database(self, here):
        here.study.path.mkdir(parents=True)
        here.study.database.write_text("a text")
        with pytest.raises(
            UsageError, match=r"multirun/s/study\.db does not: .*\. Name another file, or move this one"
        ):
            here.sweep("lora.r=4,8")
        assert here.study.database.read_text() == "a text"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("storage", "message"),
        [
            ("postgresql://me:hunter2@there/x", "must hold no password"),
            ("redis://there", r"must be the address of a database \(sqlite://"),
            ("studies.db", "must be the address of a database"),
            ("postgresql+nodriver://localhost/x", r"needs the driver of postgresql\+nodriver"),
            ("sqlite:////proc/none/all.db", r"but /proc/none/all\.db does not: .*\. Name another file"),
        ],
    )
    def test_what_does_not_open(self, here, storage, message):
        with pytest.raises(UsageError, match=message) as caught:
            here.sweep("lora.r=4,8", f"hydra.sweeper.storage='{storage}'")
        assert "hunter2" not in str(caught.value)
        assert here.ran == []
