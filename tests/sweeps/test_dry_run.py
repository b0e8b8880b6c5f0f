"""What a dry run shows."""

from pathlib import Path

import pytest

from tests.stage import RATE


class TestDryRun:
    def test_it_says_what_would_be_run_and_leaves_nothing(self, here, capsys):
        here.sweep("lora.r=4,8", "seed=0,1", "hydra.sweeper.dry_run=true", slots=2)
        printed = capsys.readouterr().out
        assert "study s: 2 trials, 2 at a time" in printed
        assert [line.split() for line in printed.splitlines() if line.endswith("to train")] == [
            ["4", "20", "0,1", "to", "train"],
            ["8", "20", "0,1", "to", "train"],
        ]
        assert "memory  not known" in printed
        assert here.ran == []
        assert not here.tracker.runs
        assert not Path("runs").exists()

    def test_no_empty_folder_stays(self, here, capsys):
        here.sweep("hydra.sweep.dir=elsewhere/deep", "hydra.sweeper.dry_run=true")
        assert "1 trial, 1 at a time" in capsys.readouterr().out
        assert not Path("elsewhere").exists()

    def test_what_a_killed_preflight_has_left_goes(self, here):
        left = Path("elsewhere/deep/preflight")
        left.mkdir(parents=True)
        (left / "log.txt").touch()
        here.sweep("hydra.sweep.dir=elsewhere/deep", "hydra.sweeper.dry_run=true")
        assert list(Path("elsewhere").iterdir()) == []

    @pytest.mark.slow
    def test_what_is_in_the_store_is_told_apart(self, here, capsys):
        here.sweep("lora.r=4", "seed=0,1")
        here.sweep("lora.r=4,8", "seed=0,1,2", "study=t", "hydra.sweeper.dry_run=true")
        printed = capsys.readouterr().out
        assert "2 of 3 in the store\n" in printed
        assert "to train\n" in printed
        assert not Path("multirun/t").exists()

    def test_an_interval_is_shown_as_it_is(self, here, capsys):
        here.sweep("lora.r=4,8", RATE, "hydra.sweeper.dry_run=true", n_trials=6)
        assert capsys.readouterr().out.count("tag(log,interval(1e-05,0.1))") == 2
