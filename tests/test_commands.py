"""`python src/train.py` as users type it, from a folder with a space in its name.

What trains is forked from a process that has the libraries (`tests.warm`). That the processes of a run and of a sweep
import them is in tests/test_smollm2.py, tests/test_wheel.py and tests/engine/test_macos.py, each once.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import load_study
from optuna.trial import FrozenTrial, TrialState

from lowrung.__main__ import COMMANDS
from lowrung.store.held_out import HeldOut
from lowrung.store.layout import ROOT
from lowrung.track.base import store_uri
from tests import warm
from tests.composing import LORAS
from tests.terminal import PATIENCE, command, environment, succeeds, train

SMALL = [
    "model=tiny",
    "train=smoke",
    "data=number_words",
    "data.train_size=8",
    "data.eval_size=4",
    "verify.prompts=2",
    "verify.new_tokens=2",
]


def refused(folder: Path, *arguments: str, run: "Callable[..., subprocess.CompletedProcess[str]]" = train) -> list[str]:
    """The problems of a command that ends with exit code 2 and says nothing but them."""
    done = run(folder, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    head, *rest = done.stderr.rstrip("\n").split("\n")
    if not rest:
        return [head.removeprefix("Error: ")] if head.startswith("Error: ") else pytest.fail(done.stderr)
    assert head == f"{len(rest)} errors:"
    assert all(line.startswith("  - ") for line in rest)
    return [line.removeprefix("  - ") for line in rest]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def written(folder: Path) -> dict[Path, int]:
    """When each file was written, but for the digests of files: those of files that were new are looked at again."""
    return {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != ".fingerprints"
    }


def trials(study: Path) -> list[FrozenTrial]:
    return load_study(study_name=study.name, storage=f"sqlite:///{study / 'study.db'}").trials


def outcome(run: Path) -> Any:
    return json.loads((run / "outcome.json").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "a folder"
    made.mkdir()
    return made


# -- what needs no model -----------------------------------------------------------------------------------------------


class TestHelp:
    @pytest.fixture(scope="class")
    @staticmethod
    def shown(tmp_path_factory: pytest.TempPathFactory) -> "subprocess.CompletedProcess[str]":
        """``--help`` in a folder that has a config folder of its own; stderr says what was imported."""
        folder = tmp_path_factory.mktemp("a folder")
        (folder / "foreign").mkdir()
        (folder / "foreign" / "x.yaml").write_text("a: 1\n")
        return subprocess.run(
            [sys.executable, "-X", "importtime", *command("--help")[1:]],
            cwd=folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def test_lists_our_groups_and_no_others(self, shown):
        listed = shown.stdout.split("== Config ==")[0].split("(group=option)")[1]
        groups = dict(line.split(": ", 1) for line in listed.strip().splitlines())
        assert list(groups) == ["data", "lora", "model", "sweeps", "track", "train", "verify"]
        assert "rank_ladder" in groups["sweeps"].split(", ")
        assert "rslora" in groups["lora"].split(", ")

    def test_imports_nothing_heavy(self, shown):
        imported = set(re.findall(r"^import time:.*\|\s*(\w+)[\w.]*$", shown.stderr, re.MULTILINE))
        assert {"hydra", "lowrung"} <= imported
        assert {"torch", "transformers", "optuna", "mlflow", "sqlalchemy", "rich"}.isdisjoint(imported)


IMPORTS = """
import json, os, sys
import hydra, lowrung.__main__

for line in json.loads(sys.argv[1]):
    if not os.fork():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            sys.argv[1:] = line
            lowrung.__main__.main(line)
        except SystemExit:
            pass
        print(json.dumps([line, sorted(sys.modules)]), file=sys.stderr, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.slow
def test_what_runs_nothing_imports_nothing_heavy(folder):
    shows = (["--cfg", "job"], ["--cfg", "all", "lora=dora", "sweeps=rank_ladder"], ["--info"], ["--hydra-help"])
    wrong = (["-m", "--cfg", "job", "lora.r=4,8"], ["lora.rank=8"])
    of_train = [["train", *line] for line in (*shows, *wrong, ["--version"])]
    commands = [module.__name__.rpartition(".")[2] for module in COMMANDS]
    lines = [*of_train, ["--help"], *([name, "--help"] for name in commands), ["nonsense"]]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(lines)],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT / "src")),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    ended = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[[")]
    assert [line for line, _ in ended] == lines
    heavy = {"torch", "transformers", "peft", "trl", "datasets", "optuna", "mlflow", "sqlalchemy", "pandas", "scipy"}
    assert {str(line): heavy.intersection(imported) for line, imported in ended if heavy.intersection(imported)} == {}


@pytest.mark.slow
def test_the_config_can_be_seen_from_any_folder(folder):
    shown = succeeds(folder, "--cfg", "job", "lora.r=4", "data=number_words")
    assert "\n  r: 4\n" in shown
    assert "\n  name: number_words\n" in shown
    assert files(folder) == set()


@pytest.mark.slow
def test_a_reader_that_had_enough_is_no_crash(folder):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command("--help"),
        cwd=folder,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lora=", [f"lora={path.stem}" for path in sorted((ROOT / "conf" / "lora").glob("*.yaml"))]),
        ("lora.use_", ["lora.use_dora=", "lora.use_rslora="]),
        ("sweeps=rank", ["sweeps=rank_ladder"]),
    ],
)
def test_the_shell_completes(folder, line, offered):
    done = train(folder, "-sc", "query=bash", COMP_LINE=f"python train.py {line}")
    assert done.stdout.split() == offered


class TestBadUsage:
    @pytest.mark.slow
    def test_one_run_all_at_once(self, folder):
        assert sorted(refused(folder, "lora.r=abc", "lora.rank=4", "lora=rslra", "train.max_steps=2,4")) == [
            "`train.max_steps=2,4` has several values. Add -m to run a trial for each, or brackets to mean one list.",
            f"lora must be one of {LORAS}, but is 'rslra'. Did you mean rslora?",
            "lora.r must be a whole number, but is 'abc'.",
            "lora.rank is not a setting. Did you mean lora.r?",
        ]
        assert files(folder) == set()

    @pytest.mark.slow
    def test_a_rule_is_broken_before_a_model_loads(self, folder):
        assert refused(folder, "lora.r=0") == ["lora.r must be at least 1, but is 0: a rank of 0 trains nothing."]
        assert {Path(name).parts[0] for name in files(folder)} == {"outputs"}  # Hydra's own log

    @pytest.mark.slow
    def test_a_sweep_all_at_once(self, folder):
        sweep = ["-m", "lora.r=4,0", "lora=rslra,default", "train.learning_rate=tag(log,interval(1e-5,1e-3))"]
        named = [problem.split()[0] for problem in refused(folder, *sweep)]
        assert sorted(named) == ["hydra.sweeper.n_trials", "lora", "lora.r"]
        assert files(folder) == set()

    @pytest.mark.slow
    def test_the_sweepers_and_the_launchers_settings_all_at_once(self, folder):
        settings = ["hydra.sweeper.timeout=never", "hydra.launcher.workers=0", "hydra.launcher.time_limit=soon"]
        problems = refused(folder, "-m", "lora.r=2,4", *settings)
        assert [problem.split()[0] for problem in problems] == [setting.partition("=")[0] for setting in settings]

    @pytest.mark.slow
    def test_what_a_single_run_lacks(self, folder):
        (problem,) = refused(folder, "model=tiny", "~seed")
        assert problem.startswith("No setting may be deleted, but `~seed` deletes seed.")

    def test_a_password_never_gets_to_disk(self, folder):
        (problem,) = refused(folder, "track.uri=postgresql://me:hunter2@nowhere/mlflow")
        assert "track.uri must hold no password" in problem
        assert "hunter2" not in problem
        assert files(folder) == set()

    @pytest.mark.slow
    def test_hydras_variable_shows_the_traceback(self, folder):
        done = train(folder, "lora.r=abc", HYDRA_FULL_ERROR="1")
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "could not be converted to Integer" in done.stderr

    @pytest.mark.slow
    def test_what_the_model_does_not_have_is_found_before_the_first_trial(self, folder):
        sweep = ["-m", "model.path=/no/such/model,embedded:tiny", "lora.target_modules=[nope]"]
        missing, module = refused(folder, *sweep, run=warm.train)
        assert missing.startswith("model.path must be a folder that save_pretrained wrote")
        assert "/no/such/model does not exist" in missing
        assert module == (
            "lora.target_modules must name linear modules of the model, but it has no nope."
            " It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
        )
        left = {Path(name).parent for name in files(folder)}
        assert left <= {Path("runs/.fingerprints")}  # digests of the model's files, which the next try need not read


@pytest.mark.slow
@pytest.mark.parametrize("program", [command(), [sys.executable, "-m", "lowrung", "train"]])
def test_ctrl_c_while_libraries_are_imported_leaves_no_traceback(folder, program):
    # A test that runs in the background of a shell has been told to ignore Ctrl-C, and so would the program be.
    handled = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    (folder / "hydra.py").write_text(f"import os, signal\n{handled}\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join([str(folder), str(ROOT / "src")])
    done = subprocess.run(
        program, cwd=folder, env=environment(PYTHONPATH=path), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (130, "")


# -- what trains -------------------------------------------------------------------------------------------------------


SWEEP = ["sweeps=rank_ladder", "lora.r=2,16", *SMALL]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a small sweep was run, of a preset and what the command line changes, and what that printed."""
    folder = tmp_path_factory.mktemp("a folder")
    return folder, warm.succeeds(folder, *SWEEP)


def study_of(folder: Path, name: str) -> Path:
    (study,) = (folder / "multirun").glob(f"{name}-*")
    return study


def imports(folder: Path, *overrides: str) -> tuple[str, set[str]]:
    """What a command prints, and the packages that it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command(*overrides)[1:]],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, set(re.findall(r"^import time:.*\|\s*(\w+)[\w.]*$", done.stderr, re.MULTILINE))


@pytest.mark.slow
class TestASweep:
    """One sweep of two ranks, looked at from all sides. The tests share its folder and run in order."""

    def test_the_leaderboard_is_printed_best_first(self, swept):
        folder, printed = swept
        head, *rows = printed[printed.index("#  trial  lora.r") :].split("\n\n")[0].splitlines()
        assert all(title in head for title in ("trainable", "eval loss", "eval/exact_match", "against the best"))
        assert [row.split()[0] for row in rows] == ["1", "2"]
        assert {row.split()[2] for row in rows} == {"2", "16"}
        assert all("passed  max |Δlogit|" in row for row in rows)
        assert "merge verified" in printed
        assert "\nverdict: lora.r=" in printed
        assert "held-out examples, paired; one seed: training noise is not in it." in printed
        assert f"results:  {study_of(folder, 'rank_ladder')}" in printed

    def test_hydras_own_files_and_the_way_to_the_run(self, swept):
        study = study_of(swept[0], "rank_ladder")
        for number, rank in enumerate((2, 16)):
            job = study / str(number)
            overrides = (job / ".hydra" / "overrides.yaml").read_text().split("\n")
            assert f"- lora.r={rank}" in overrides
            assert {"- model=tiny", "- sweeps=rank_ladder"} <= set(overrides)
            run = (job / "run").resolve()
            assert run.parent == swept[0] / "runs"
            assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files(run / "adapter")
            assert "trainable params" in (run / "log.txt").read_text()
            assert not (run / "scratch").exists()

    def test_metrics_are_those_of_the_design(self, swept):
        done = outcome((study_of(swept[0], "rank_ladder") / "1" / "run").resolve())
        assert done["status"] == "complete"
        assert {
            "eval/loss",
            "eval/perplexity",
            "eval/token_accuracy",
            "eval/exact_match",
            "base/eval_loss",
            "params/trainable",
            "params/total",
            "params/trainable_percent",
            "params/rank_mean",
            "adapter/bytes",
            "merge/passed",
            "merge/max_abs_logit_diff",
            "merge/mean_kl",
            "merge/top1_agreement",
            "merge/greedy_agreement",
            "merge/eval_loss_delta",
            "merge/adapter_effect",
        } <= done["metrics"].keys()
        measured = {"train/tokens_per_second", "time/train_seconds", "time/total_seconds", "memory/peak_bytes"}
        assert measured | {"merge/speedup"} <= done["measurements"].keys()
        assert done["metrics"].keys().isdisjoint(done["measurements"])
        assert done["measurements"]["plan/params_trainable"] == done["metrics"]["params/trainable"]
        assert done["facts"]["plan"]["speed"] == "1 earlier run of this model here"  # the first trial's
        run = (study_of(swept[0], "rank_ladder") / "1" / "run").resolve()
        scored = HeldOut.read(run / "held_out.parquet")
        assert scored.answers["exact_match"].mean() == done["metrics"]["eval/exact_match"]
        assert {tuple(layer.items()) for layer in done["facts"]["ranks"].values()} == {(("rank", 16), ("scaling", 2.0))}

    def test_mlflow_has_a_parent_and_two_children(self, swept):
        folder, printed = swept
        client = MlflowClient(store_uri(None, folder))
        experiment = client.get_experiment_by_name("lowrung")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        parent, *children = runs
        assert [run.info.status for run in runs] == ["FINISHED"] * 3
        assert parent.info.run_name == study_of(folder, "rank_ladder").name
        assert f"/sweeps/{parent.info.run_name}\n" in printed
        assert "eval/loss" in parent.data.metrics
        for child, rank in zip(children, (2, 16), strict=True):
            self.look_at(child, rank, parent.info.run_id)
            history = client.get_metric_history(child.info.run_id, "train/loss")
            assert [point.step for point in history] == [1, 2]
            kept = {item.path for item in client.list_artifacts(child.info.run_id)}
            assert {"adapter", "config.yaml", "environment.json", "held_out.parquet", "outcome.json"} <= kept
            adapter = client.list_artifacts(child.info.run_id, "adapter")
            assert "adapter/adapter_model.safetensors" in [item.path for item in adapter]

    @staticmethod
    def look_at(child: Run, rank: int, parent: str) -> None:
        assert child.data.tags["mlflow.parentRunId"] == parent
        assert child.data.params == {
            "lora.r": str(rank),
            "model": "tiny",
            "data": "number_words",
            "train.learning_rate": "0.001",
            "seed": "0",
        }
        assert {"train/loss", "train/grad_norm", "train/learning_rate", "eval/loss"} <= child.data.metrics.keys()
        assert {"eval/exact_match", "merge/passed", "time/total_seconds"} <= child.data.metrics.keys()
        assert {"plan/memory_bytes", "plan/seconds", "plan/params_trainable"} <= child.data.metrics.keys()
        assert child.inputs
        contexts = [tag.value for used in child.inputs.dataset_inputs for tag in used.tags]
        assert sorted(contexts) == ["evaluation", "training"]

    def test_the_same_command_again_trains_nothing(self, swept):
        folder, first = swept
        before = written(folder / "runs")
        again = warm.succeeds(folder, *SWEEP)
        assert "2 trials, 2 done before" in again
        assert "step 1" not in again
        losses = re.compile(r"\d\.\d+ → \d\.\d+")
        assert losses.findall(again[again.index("#  trial") :]) == losses.findall(first[first.index("#  trial") :])
        assert written(folder / "runs") == before
        assert len(trials(study_of(folder, "rank_ladder"))) == 2

    def test_what_is_known_and_tracked_is_printed_without_torch_and_mlflow(self, swept):
        folder, first = swept
        database = (folder / "mlflow.db").read_bytes()
        printed, imported = imports(folder, *SWEEP)
        table = first[first.index("#  trial") :]
        assert printed.endswith(table)
        assert "loading libraries" not in printed  # in a process of their own
        assert {"torch", "transformers", "peft", "trl", "datasets", "mlflow"}.isdisjoint(imported)
        assert (folder / "mlflow.db").read_bytes() == database

    def test_hydras_own_sweeper_and_launcher_run_single_runs_that_are_reused_too(self, swept):
        folder, _ = swept
        before = sorted((folder / "runs").iterdir())
        printed = warm.succeeds(folder, "-m", "hydra/sweeper=basic", "hydra/launcher=basic", "lora.r=2,16", *SMALL)
        assert printed.count("reused: these settings were run before") == 2
        assert sorted((folder / "runs").iterdir()) == before

    def test_a_trial_that_fails_gives_exit_code_1_and_spares_the_others(self, swept):
        folder = swept[0]
        takes_no_texts = "statistics.correlation"
        sweep = ["-m", "--json", f"data.metrics=[exact_match],[{takes_no_texts}]", "lora.r=2", *SMALL]
        done = warm.train(folder, *sweep)
        assert done.returncode == 1
        assert "trial 0 (data.metrics=[exact_match]): reused" in done.stderr
        assert re.search(r"^trial 1 failed: \w*Error", done.stderr, re.MULTILINE)
        message = "1 of 2 trials failed (first: trial 1, "
        assert f"\nError: {message}" in done.stderr
        assert "Traceback" not in done.stderr
        printed = json.loads(done.stdout)
        assert (printed["run"], printed["error"]["exit_code"]) == (None, 1)
        assert printed["error"]["problems"][0].startswith(message)
        assert printed["sweep"]["counts"] == {"complete": 1, "failed": 1}
        assert [trial["status"] for trial in printed["sweep"]["trials"]] == ["complete", "failed"]


@pytest.mark.slow
class TestASingleRun:
    """One run, then sweeps that meet its result; nothing is tracked. The tests share a folder and run in order."""

    @pytest.fixture(scope="class")
    @staticmethod
    def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("a folder")
        return folder, warm.succeeds(folder, *SMALL, "lora.r=2", "track=none")

    def test_it_says_how_it_ended_and_where_it_is(self, ran):
        folder, printed = ran
        (run,) = (folder / "runs").glob("[!.]*")
        assert outcome(run)["status"] == "complete"
        assert f"results: {run}" in printed
        assert re.search(r"^eval/loss +\d", printed, re.MULTILINE)
        assert re.search(r"^merge/passed +1$", printed, re.MULTILINE)
        (job,) = (folder / "outputs").glob("*/*")
        assert (job / "run").resolve() == run
        assert "- lora.r=2" in (job / ".hydra" / "overrides.yaml").read_text().splitlines()

    def test_a_rate_that_diverges_ends_its_own_trial_and_no_other(self, ran):
        folder = ran[0]
        sweep = ["-m", "lora.r=2", "train.learning_rate=1e-3,1e20,2e-3", *SMALL, "track=none"]
        printed = warm.succeeds(folder, *sweep)
        assert "trial 0 (train.learning_rate=0.001): reused" in printed
        assert re.search(r"^trial 1 diverged: .* is not finite at step \d", printed, re.MULTILINE)
        board = json.loads((study_of(folder, "number_words") / "leaderboard.json").read_text())
        assert [row["status"] for row in board] == ["complete", "complete", "diverged"]
        assert board[-1]["point"] == {"train.learning_rate": "1e+20"}

    @pytest.mark.parametrize("sweep", [[], ["-m"]], ids=["a run", "a sweep"])
    def test_what_is_known_is_printed_without_torch(self, ran, sweep):
        printed, imported = imports(ran[0], *sweep, *SMALL, "lora.r=2", "track=none", "--json")
        answer = json.loads(printed)
        reused = answer["sweep"]["trials"][0] if sweep else answer["run"]
        assert (reused["status"], reused["gate"], reused["is_reused"]) == ("complete", "passed", True)
        assert "lowrung" in imported
        assert {"torch", "transformers", "peft", "trl", "datasets", "mlflow"}.isdisjoint(imported)

    def test_nothing_was_tracked(self, ran):
        assert not (ran[0] / "mlflow.db").exists()
        assert not (ran[0] / "mlruns").exists()


@pytest.mark.slow
def test_ctrl_c_and_sigterm_end_it_and_the_same_command_goes_on(folder):
    many = ["train.max_steps=150,1", "train.eval_steps=150"]  # so many that a busy coordinator can stop a run in time
    sweep = ["-m", *SMALL, "lora.r=2", *many, "verify=none", "track=none"]
    stopped = warm.signalled(folder, "trial 0 (train.max_steps=150): step 0/150", signal.SIGINT, *sweep)
    assert stopped.returncode == 130, stopped.stderr
    printed = stopped.stdout
    assert "interrupted; the same command goes on from here" in printed
    assert "Traceback" not in stopped.stderr
    study = study_of(folder, "number_words")
    assert [trial.state for trial in trials(study)] == [TrialState.RUNNING]
    assert "stopping: each run ends after its step, with a checkpoint" in printed
    assert [outcome(run)["status"] for run in (folder / "runs").glob("[0-9a-f]*")] == ["cancelled"]
    assert list(folder.glob("runs/*/checkpoints/checkpoint-*/complete.json"))

    told = warm.signalled(folder, "trial 0 (train.max_steps=150): started", signal.SIGTERM, *sweep)
    assert told.returncode == 143, told.stderr
    warm.succeeds(folder, *sweep)
    assert any("going on from step" in log.read_text() for log in folder.glob("runs/*/log.txt"))
    assert [(trial.state, trial.params) for trial in trials(study)] == [
        (TrialState.COMPLETE, {"train.max_steps": 150}),
        (TrialState.COMPLETE, {"train.max_steps": 1}),
    ]
