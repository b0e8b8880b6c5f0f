"""The benchmark against `trl sft` and Hydra's sweeper; nothing here depends on how fast the machine is."""

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks import winner
from benchmarks.peers import __main__ as command
from benchmarks.peers import commands, environment
from benchmarks.peers.shares import PARTS, cpu_until, shares
from benchmarks.peers.summary import differing, summary
from benchmarks.peers.task import Files, Task, spread, turned
from benchmarks.peers.ways import STUDY

from lowrung.store.layout import StudyFolder
from tests import warm

LOSSES = [[3.1, 2.9], [3.1, 2.8]]


class TestDiffering:
    @pytest.mark.parametrize("loss", [2.8, 2.8009, 2.7991])
    def test_rounding_is_no_difference(self, loss):
        differences, problems = differing("trl sft", [[3.1, 2.9], [3.1, loss]], LOSSES)
        assert len(differences) == 4
        assert problems == []

    @pytest.mark.parametrize("loss", [2.802, 2.798, math.nan, math.inf, -2.8])
    def test_another_loss_is_named(self, loss):
        _, (problem,) = differing("trl sft", [[3.1, 2.9], [3.1, loss]], LOSSES)
        assert problem.startswith("trl sft, trial 1: 1 of 2 losses differ by more than 0.001, first at step 2: ")
        assert problem.endswith("where lowrung's is 2.800000")

    @pytest.mark.parametrize("theirs", [[], [[3.1, 2.9]], [[3.1, 2.9], [3.1]], [[3.1], [3.1]], [*LOSSES, [3.0, 2.0]]])
    def test_so_are_other_numbers_of_trials_or_steps(self, theirs):
        _, (problem,) = differing("trl sft", theirs, LOSSES)
        assert problem.endswith("and by lowrung 2 trials of 2 steps")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_run_that_diverged_is_recorded(tmp_path, loss):
    turn = {"wall_seconds": 2.0, "cpu_seconds": 3.0, "peak_bytes": None, "peak_bytes_of_a_process": 1, "pair": 0}
    own = {
        **turn,
        "way": "lowrung",
        "losses": [[3.0, 2.0]],
        "parts": {"wall": {"steps": 2.0}, "cpu": None},
        "tokens": 8,
    }
    other = {**turn, "way": "trl sft", "losses": [[3.0, loss]]}
    record = summary(Task(steps=2), Files(tmp_path, "model", 0.1), [own, other], None)
    assert len(record["disagreements"]) == 1
    assert record["ratios"]["trl sft"] == {"wall": [1.0], "cpu": [1.0]}
    assert json.loads(json.dumps(record, allow_nan=False))["turns"][1]["losses"] == [[3.0, None]]


def test_the_parts_of_a_sweep_add_up_to_its_time(tmp_path):
    runs = [tmp_path / "first", tmp_path / "second"]
    for run, begins in zip(runs, (10.0, 40.0), strict=True):
        run.mkdir()
        moments = [(0, 2, "eval/loss"), (1, 6, "train/loss"), (2, 9, "train/loss"), (2, 11, "eval/loss")]
        points = [{"step": step, "time": begins + after, "metrics": {name: 1.0}} for step, after, name in moments]
        (run / "reports.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
        (run / "outcome.json").write_text(json.dumps({"measurements": {"time/total_seconds": 20.0}}))
        os.utime(run / "outcome.json", (begins + 20, begins + 20))
    parts = shares(runs, 0.0, 65.0)
    assert list(parts) == list(PARTS)
    assert list(parts.values()) == pytest.approx([10, 4, 14, 4, 18, 15])
    assert sum(parts.values()) == pytest.approx(65)
    two_cores_from_the_first_run_on = cpu_until([(0.0, 0.0), (10.0, 10.0), (65.0, 120.0)])
    of_processors = shares(runs, 0.0, 65.0, two_cores_from_the_first_run_on)
    assert list(of_processors.values()) == pytest.approx([10, 8, 28, 8, 36, 30])


BURN = "import time\nwhile time.process_time() < 0.2: pass"

ORPHAN = f"""
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {BURN.replace(chr(10), chr(10) + " " * 8)}
    os._exit(0)
os.wait()
"""


class TestProcess:
    @pytest.mark.parametrize("code", [BURN, pytest.param(ORPHAN, marks=pytest.mark.skipif("sys.platform != 'linux'"))])
    def test_all_descendants_count(self, tmp_path, code):
        taken = commands.run([sys.executable, "-c", code], tmp_path, dict(os.environ))
        assert taken["cpu_seconds"] >= 0.2
        assert taken["peak_bytes_of_a_process"] > 1e6
        assert all(cpu <= taken["cpu_seconds"] + 0.05 for _, cpu in taken["cpu_by_time"])

    def test_a_command_that_fails_says_its_last_words_and_which_it_was(self, tmp_path):
        with pytest.raises(commands.CommandFailed, match=r"(?s)no luck\n\nthis command ended with exit code 3: "):
            commands.run([sys.executable, "-c", "print('no luck'); exit(3)"], tmp_path, dict(os.environ))


def test_no_setting_of_the_user_s_threads_or_source_reaches_a_command(tmp_path, monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "PYTHONPATH", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "1")
        assert name not in commands.variables(tmp_path)


def test_rates_are_spread_and_each_way_is_first_in_turn():
    assert spread(1) == (3e-4,)
    assert spread(3) == (1e-4, 3.16e-4, 1e-3)
    assert [turned(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]


def test_a_task_is_read_as_it_was_written(tmp_path):
    Task(learning_rates=(1e-4, 1e-3)).write(tmp_path / "task.json")
    assert Task.read(tmp_path / "task.json") == Task(learning_rates=(1e-4, 1e-3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "0"], "--pairs must be at least 1, but is 0"),
        (["--trials", "-1"], "--trials must be at least 1, but is -1"),
        (["--steps", "1"], "--steps must be at least 2, but is 1"),
        (["--step-rounds", "-1"], "--step-rounds must be at least 0, but is -1"),
        (["--ways", "trl sft"], "--ways must have lowrung among them"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def in_warm(arguments: list[str], folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """As `commands.run`; what imports torch is forked, and what it took is made up."""
    python, *given = arguments
    if python != sys.executable:
        return RUN(arguments, folder, variables)
    if given[0] == "-m":
        given = ["-c", f"import sys\nfrom {given[1]} import main\nmain(sys.argv[1:])", *given[2:]]
    began = time.time()
    done = warm.run(given, folder, variables)
    assert done.returncode == 0, done.stdout + done.stderr
    taken = {"cpu_seconds": 1.0, "cpu_by_time": [], "peak_bytes": None, "peak_bytes_of_a_process": 1_000_000}
    return {"began": began, "wall_seconds": time.time() - began, **taken}


RUN = commands.run


@pytest.mark.slow
def test_all_ways_train_to_the_same_losses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "run", in_warm)
    ways = ["lowrung", "trl sft, tuned", *(["hydra-optuna"] if environment.place().is_dir() else [])]
    out = tmp_path / "peers.json"
    given = ["--tiny", "--pairs", "1", "--step-rounds", "1", "--scratch", str(tmp_path), "--out", str(out)]
    assert command.main([*given, "--ways", *ways]) == 0
    record = json.loads(out.read_text())
    assert list(record["ways"]) == ways
    assert record["disagreements"] == []
    assert record["largest_difference"] < 1e-4
    assert {len(turn["losses"][0]) for turn in record["turns"]} == {3}
    assert record["steps"]["cpu_seconds"].keys() == {"stock", "lowrung", "floor"}
    assert sum(record["parts"]["wall"].values()) == pytest.approx(record["turns"][0]["wall_seconds"])
    assert str(tmp_path) not in out.read_text()
    assert "all losses of all steps agree" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [out]


class TestWinner:
    @pytest.fixture
    def found(self, tmp_path, monkeypatch) -> Any:
        """Runs the script on leaderboards that are made up; gives its exit code and its record."""

        def search(stages: float, asha: float, peers: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
            def run(arguments: list[str], folder: Path, variables: dict[str, str]) -> dict[str, Any]:
                kind = next((name for name in winner.SEARCHES if name == folder.name), "grid")
                losses = {"stages": [stages], "asha": [asha], "grid": [2.0 + 0.1 * point for point in range(27)]}[kind]
                rows = [{"status": "complete", "point": {"lora.r": 8}, "metrics": {"eval/loss": one}} for one in losses]
                rows.append({"status": "pruned", "point": {}, "metrics": {}})
                study = StudyFolder(folder / "multirun" / STUDY)
                study.path.mkdir(parents=True, exist_ok=True)
                study.leaderboard.write_text(json.dumps(rows))
                (folder / commands.MEASURED).write_text(json.dumps({"wall_seconds": 270.0, "cpu_seconds": 540.0}))
                return {}

            monkeypatch.setattr(commands, "run", run)
            monkeypatch.setattr(commands, "files", lambda task, folder: Files(folder, "model", 0.0))
            given = ["--tiny", "--seeds", "0", "1", "--out", str(tmp_path / "winner.json")]
            if peers is not None:
                (tmp_path / "peers.json").write_text(json.dumps(peers))
                given += ["--peers", str(tmp_path / "peers.json")]
            return winner.main(given), json.loads((tmp_path / "winner.json").read_text())

        return search

    @pytest.mark.parametrize(("asha", "code"), [(2.0, 0), (2.019, 0), (2.021, 1), (2.5, 1), (1.9, 0)])
    def test_a_winner_within_one_percent_of_the_grid_is_one(self, found, asha, code):
        ended, record = found(2.0, asha)
        assert ended == code
        assert [(one["search"], one["seed"]) for one in record["searches"]] == [
            ("stages", 0),
            ("asha", 0),
            ("stages", 1),
            ("asha", 1),
        ]
        assert record["searches"][1]["regret"] == pytest.approx(asha / 2 - 1)
        assert record["searches"][1]["trials"] == {"complete": 1, "pruned": 1}

    def test_its_cost_is_a_share_of_a_run_of_trl_for_each_point(self, found):
        peers = {
            "task": {"model": "tiny", "steps": 4, "seed": 0, "learning_rates": [3e-4], "rank": 8},
            "ways": {"trl sft": {"wall_seconds_per_trial": 100.0, "cpu_seconds_per_trial": 40.0}},
            "disagreements": [],
        }
        _, record = found(2.0, 2.0, peers)
        assert record["costs"]["stages"]["shares"] == {"trl sft": {"wall": 0.1, "cpu": 0.5}}

    def test_a_benchmark_of_other_runs_is_no_measure(self, found):
        with pytest.raises(SystemExit, match=r"must be of the same runs, but .* is of steps=16, batch_size=8\. Run it"):
            found(2.0, 2.0, {"task": {"model": "tiny", "steps": 16, "batch_size": 8}, "ways": {}})

    def test_nor_is_one_whose_ways_did_other_work(self, found):
        with pytest.raises(SystemExit, match=r"must be of ways that agree, but in .* they trained to other losses"):
            found(2.0, 2.0, {"task": {"model": "tiny"}, "ways": {}, "disagreements": ["trl sft, trial 0: ..."]})

    def test_without_the_benchmark_nothing_starts(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            winner.main(["--peers", str(tmp_path / "none.json")])
        assert "there is no" in capsys.readouterr().err
