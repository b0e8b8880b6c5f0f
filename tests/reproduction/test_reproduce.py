"""`lowrung reproduce` on a run of the tiny model."""

import dataclasses
import json
import shutil

import pytest

from lowrung.__main__ import main
from lowrung.commands.reproduce import Circumstances, Reproduction
from lowrung.store import layout
from lowrung.store.layout import JobFolder
from tests.reproduction.conftest import train
from tests.sources import pairs, write_rows


@pytest.fixture
def reproduce(capsys):
    """Runs the command; returns its exit code, and what it printed."""

    def run(*arguments):
        code: object = 0
        try:
            main(["reproduce", *map(str, arguments)])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return code, out, err

    return run


def change_json(path, **values):
    """Sets fields of a file of JSON."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.slow
def test_a_run_agrees_with_itself_to_the_bit(run, here, reproduce):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    code, out, err = reproduce(run.path.name, "--keep", "kept")
    assert (code, err) == (0, "")
    assert "made with the same versions, code and processor as are here" in out
    assert "agrees to the bit: " in out
    assert " 8 held-out examples" in out
    assert (here / "kept" / run.path.name / "outcome.json").is_file()
    assert before == {path: path.read_bytes() for path in before}
    assert not (here / "mlflow.db").exists()


@pytest.mark.slow
def test_a_run_that_was_stopped_and_gone_on_with_agrees_to_the_bit(run, here, reproduce):
    shutil.rmtree(run.path)
    assert train(here, stops=1).path == run.path
    assert json.loads(run.outcome.read_text())["facts"]["is_resumed"]
    code, out, err = reproduce(run.path)
    assert (code, err) == (0, "")
    assert "went on from a checkpoint" in out
    assert "agrees to the bit: " in out


@pytest.mark.slow
def test_a_planted_difference_is_found_and_has_no_known_cause(run, reproduce):
    outcome = json.loads(run.outcome.read_text())
    change_json(run.outcome, metrics={**outcome["metrics"], "eval/loss": 1.0})
    code, out, err = reproduce(run.path)
    assert code == 1
    assert "differs: eval/loss: 1.0 was recorded, " in out
    assert "there is no known cause" in out
    assert "1 difference, see above" in err
    change_json(run.environment, versions={**json.loads(run.environment.read_text())["versions"], "torch": "1.0"})
    code, out, _ = reproduce(run.path, "--json")
    document = json.loads(out)
    assert (code, document["error"]["exit_code"], document["agrees"]) == (1, 1, False)
    fields = [field.name for kind in (Circumstances, Reproduction) for field in dataclasses.fields(kind)]
    assert list(document) == ["lowrung", "shape", "command", *fields, "error"]
    assert [(cause["what"], cause["then"]) for cause in document["causes"]] == [("torch", "1.0")]
    assert document["restoring"] == "pip install torch==1.0"


@pytest.mark.slow
def test_data_that_was_edited_is_refused_before_training(run, here, reproduce):
    write_rows(here / "rows.jsonl", [*pairs(23), {"prompt": "?", "completion": "another"}])
    code, out, err = reproduce(run.path)
    assert code == 2
    assert "The data must be what the run was trained on" in err
    assert "a relative path in its config is taken from" in err
    assert "training" not in out


def test_data_that_is_gone_is_refused(run, here, reproduce):
    (here / "rows.jsonl").unlink()
    code, _, err = reproduce(run.path)
    assert code == 2
    assert "rows.jsonl" in err


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("pruned", "Its study ended it early"),
        ("oom", "it is oom (too big)"),
        ("cancelled", "Name a run that is complete"),
    ],
)
def test_a_run_that_came_to_no_end_of_its_own_is_refused(run, reproduce, status, words):
    change_json(run.outcome, status=status, cause="too big")
    code, _, err = reproduce(run.path)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("gone", ["outcome.json", "environment.json", "config.yaml"])
def test_a_folder_that_is_half_deleted_is_refused(run, reproduce, gone):
    (run.path / gone).unlink()
    code, _, err = reproduce(run.path)
    assert code == 2
    assert err.startswith("Error: ")
    assert str(run.path) in err


@pytest.mark.parametrize(
    ("old", "new"),
    [("lora:", "lora:\n  ranks: 3"), ("lora:", "lorax:"), ("seed: 0", "seed: [x"), ("  r: 2", "  r: two")],
)
def test_a_config_of_another_version_is_refused_with_its_writer(run, reproduce, old, new):
    text = run.config.read_text()
    assert old in text
    run.config.write_text(text.replace(old, new, 1))
    change_json(run.environment, lowrung="0.0.7", commit="abcdef")
    code, _, err = reproduce(run.path)
    assert code == 2
    assert "lowrung 0.0.7, commit abcdef wrote it" in err


def test_code_of_a_base_runs_only_where_it_is_allowed(run, reproduce):
    run.config.write_text(run.config.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    code, _, err = reproduce(run.path)
    assert code == 2
    assert "--trust-remote-code" in err


def test_a_recorded_config_alone_runs_no_function_that_it_names(run, here, reproduce):
    (here / "planted.py").write_text("raise SystemExit('it ran')")
    text = run.config.read_text()
    run.config.write_text(text.replace("- exact_match", "- planted.score"))
    assert run.config.read_text() != text
    code, _, err = reproduce(run.path)
    assert code == 2
    assert "scored by functions of its user's, planted.score, and a run's config alone cannot allow them" in err


def test_a_study_several_seeds_and_a_run_that_is_gone_are_refused_by_name(run, here, reproduce):
    study = here / "multirun" / "mine"
    for trial in ("0", "1/seed_0", "1/seed_1"):
        layout.point_to(JobFolder(study / trial).run, run.path)
    (study / "multirun.yaml").write_text("")
    assert "mine is a whole study. Name one of its trials: mine/0" in reproduce("mine")[2]
    assert "Name one of its runs: mine/1/seed_0, mine/1/seed_1." in reproduce("mine/1")[2]
    shutil.rmtree(study / "0")
    assert "mine is a whole study. Name one of its trials: mine/1." in reproduce("mine")[2]
    layout.point_to(JobFolder(study / "0").run, run.path)
    shutil.rmtree(run.path)
    assert "but that is gone" in reproduce("mine/0")[2]


def test_a_folder_that_holds_something_is_not_kept_in(run, here, reproduce):
    code, _, err = reproduce(run.path, "--keep", here)
    assert code == 2
    assert "--keep must be a new or empty folder" in err
