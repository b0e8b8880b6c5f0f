"""lowrung in Python, as scripts and notebooks call it."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.version import VersionBase

import lowrung
from lowrung.api import Leaderboard
from lowrung.report.leaderboard import Seed, TrialRow
from lowrung.store.layout import ROOT
from lowrung.store.outcome import Outcome, Status
from tests import warm
from tests.terminal import PATIENCE, environment

SMALL = [
    "model=tiny",
    "data=number_words",
    "train=smoke",
    "data.train_size=8",
    "data.eval_size=4",
    "verify=none",
    "track=none",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


ENVIRONMENT = environment(PYTHONPATH=str(ROOT / "src"))


def python(folder: Path, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    return warm.run(list(arguments), folder, ENVIRONMENT, typed)


class TestThePackage:
    def test_its_import_brings_nothing_heavy(self, folder):
        code = "import sys, lowrung; lowrung.UsageError; lowrung.Outcome; print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE
        )
        imported = set(done.stdout.split())
        assert "lowrung" in imported
        assert {"torch", "transformers", "hydra", "optuna", "mlflow", "pandas"}.isdisjoint(imported)

    def test_all_that_it_offers_is_there(self):
        assert set(lowrung.__all__) < set(dir(lowrung))
        assert all(getattr(lowrung, name).__doc__ for name in lowrung.__all__)
        with pytest.raises(AttributeError, match="'lowrung' has no attribute 'swep'"):
            lowrung.swep  # noqa: B018


class TestBadUsage:
    """One error that says all, before anything is written."""

    @pytest.mark.slow
    @pytest.mark.parametrize("call", [lowrung.run, lowrung.sweep])
    @pytest.mark.parametrize(
        ("overrides", "keys"),
        [
            (["lora.rank=4", "lora=rslra", "train.learning_rate=fast"], ["lora.rank", "lora", "train.learning_rate"]),
            (["-m"], ["`-m`"]),
            (["lora.r=0", "model=tiny"], ["lora.r"]),
            (["track.uri=postgresql://me:secret@host/db"], ["track.uri"]),
        ],
    )
    def test_all_problems_at_once(self, folder, call, overrides, keys):
        with pytest.raises(lowrung.UsageError) as raised:
            call(overrides)
        assert [problem.split()[0] for problem in raised.value.problems] == keys
        assert not any(path.suffix == ".json" for path in folder.rglob("*"))

    @pytest.mark.parametrize("several", ["lora.r=2,4", "train.learning_rate=interval(1e-5,1e-3)"])
    def test_one_run_has_no_several_values(self, folder, several):
        with pytest.raises(lowrung.UsageError, match=re.escape(f"`{several}` has several values. Call lowrung.sweep")):
            lowrung.run(SMALL, several)

    def test_one_run_is_no_preset(self, folder):
        with pytest.raises(lowrung.UsageError, match="a preset asks for a sweep"):
            lowrung.run(SMALL, "sweeps=rank_ladder")

    @pytest.mark.slow
    def test_one_run_is_no_dry_run(self, folder):
        with pytest.raises(lowrung.UsageError, match=r"Call lowrung\.sweep"):
            lowrung.run(SMALL, "hydra.sweeper.dry_run=true")

    def test_a_sweep_is_run_by_our_sweeper(self, folder):
        with pytest.raises(lowrung.UsageError, match=r"hydra/sweeper must be lowrung .* but is basic"):
            lowrung.sweep(SMALL, "hydra/sweeper=basic", "lora.r=2,4")

    def test_a_config_folder_that_is_not_there(self, folder):
        with pytest.raises(lowrung.UsageError, match=re.escape(f"{folder / 'absent'} is not a folder")):
            lowrung.run(SMALL, config_dir="absent")


@pytest.mark.slow
def test_an_app_of_the_users_keeps_its_hydra(folder):
    (folder / "app.yaml").write_text("mine: 1\n")
    with initialize_config_dir(str(folder), version_base="1.2", job_name="app"):
        before = GlobalHydra.instance().hydra, HydraConfig.instance().cfg, VersionBase.instance().version_base
        for _ in range(2):
            with pytest.raises(lowrung.UsageError):
                lowrung.sweep("lora.r=0")
        assert (GlobalHydra.instance().hydra, HydraConfig.instance().cfg, VersionBase.instance().version_base) == before
        composed = compose("app", return_hydra_config=True)
        assert (composed.mine, composed.hydra.job.name) == (1, "app")


class TestLeaderboard:
    @pytest.fixture
    def board(self, tmp_path: Path) -> Leaderboard:
        done = Outcome(Status.COMPLETE, {"base/eval_loss": 3.0, "eval/loss": 2.5}, {"time/total_seconds": 4.0})
        lost = Outcome(Status.FAILED, cause="SIGKILL")
        rows = [
            TrialRow(
                1, {"lora.r": "4", "train.learning_rate": "1e-05", "lora": "dora"}, done, [Seed(0, done, "runs/a")]
            ),
            TrialRow(0, {"lora.r": "2", "train.learning_rate": "0.1", "lora": "null"}, lost, [], broken=["x<=1"]),
        ]
        return Leaderboard(rows, rows[0], {"eval/loss": "minimize"}, tmp_path)

    def test_the_frame_has_settings_and_metrics_by_their_names(self, board):
        frame = board.to_pandas()
        assert frame["trial"].tolist() == [1, 0]
        assert frame["lora.r"].tolist() == [4, 2]
        assert frame["train.learning_rate"].tolist() == [1e-05, 0.1]
        assert frame["lora"].tolist() == ["dora", "null"]
        assert frame["status"].tolist() == ["complete", "failed"]
        assert frame["eval/loss"][0] == 2.5
        assert pd.isna(frame["eval/loss"][1])
        assert frame["cause"][1] == "SIGKILL"
        assert frame["broken"].tolist() == ["", "x<=1"]
        assert frame["results"][0] == "runs/a"

    def test_it_prints_as_the_table(self, board):
        head, best, *_ = str(board).splitlines()
        assert head.split()[:3] == ["#", "trial", "lora.r"]
        assert best.split()[:3] == ["1", "1", "4"]


# -- what trains -------------------------------------------------------------------------------------------------------


SCRIPT = f"""
import os, signal, sys
import lowrung

def state():
    return dict(os.environ), os.getcwd(), signal.getsignal(signal.SIGINT)

print("imported", __name__)
small = {SMALL!r}
before = state()
board = lowrung.sweep(small, "lora.r=2,4")
again = lowrung.sweep(small, ["lora.r=2,4"])
assert [row.number for row in again.trials] == [row.number for row in board.trials]
assert not any(row.is_reused for row in again.trials), again  # this study has trained them
assert sorted(board.to_pandas()["lora.r"]) == [2, 4]

after = state()
assert after[1:] == before[1:]
changed = {{name for name in before[0] | after[0] if before[0].get(name) != after[0].get(name)}}
assert not [name for name in changed if name.startswith(("HYDRA", "GOMP", "CUDA"))], changed

outcome = lowrung.run(small, "lora.r=2")
assert outcome.metrics == next(row for row in board.trials if row.point["lora.r"] == "2").outcome.metrics
assert (outcome.adapter / "adapter_model.safetensors").is_file()
try:
    lowrung.run(small, "lora.r=3", "train.learning_rate=1e20")
except lowrung.RunFailed as error:
    assert error.results.status == "diverged", error.results

write = sys.stdout.write

def write_and_stop(text):
    write(text)
    if "step 0/150" in text:
        sys.stdout.write = write
        os.kill(os.getpid(), signal.SIGINT)

sys.stdout.write = write_and_stop
long = [*small, "train.max_steps=150", "train.eval_steps=150", "lora.r=3"]
try:
    lowrung.sweep(long)
except KeyboardInterrupt:
    print("stopped")
assert [str(row.outcome.status) for row in lowrung.sweep(long).trials] == ["complete"]
print("all is well")
"""


@pytest.mark.slow
class TestTraining:
    def test_a_script_without_a_guard(self, folder):
        (folder / "script.py").write_text(SCRIPT)
        done = python(folder, "script.py")
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("imported __main__") == 1
        assert "imported __mp_main__" not in done.stdout + done.stderr
        assert "\nstopped\n" in done.stdout
        assert "Traceback" not in done.stderr
        assert done.stdout.endswith("all is well\n")

    def test_a_trial_that_fails_leaves_the_others_results(self, folder):
        (folder / "mine.py").write_text("def score(predictions, references):\n    raise OSError('away')\n")
        (folder / "script.py").write_text(
            textwrap.dedent(
                f"""
                import lowrung

                try:
                    lowrung.sweep({SMALL!r}, "data.metrics=[],[mine.score]", "lora.r=2")
                except lowrung.RunFailed as error:
                    print([str(row.outcome.status) for row in error.results.trials], error.results.best.number)
                """
            )
        )
        done = python(folder, "script.py")
        assert done.stdout.endswith("['complete', 'failed'] 0\n"), done.stdout + done.stderr


@pytest.mark.slow
def test_the_pages_blocks_run(folder):
    """Typed in, as into a notebook: ``__main__`` has no file, and nobody can import its functions."""
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("```python")
    done = python(folder, "-", typed="\n".join(blocks))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lora.rank is not a setting. Did you mean lora.r?" in done.stdout
    assert (folder / "merged" / "config.json").is_file()
    assert (folder / "both" / "adapter_config.json").is_file()
