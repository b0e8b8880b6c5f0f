"""`lowrung promote` on runs that were trained and tracked."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient

from lowrung.__main__ import main
from lowrung.adapters import pyfunc_loader
from lowrung.adapters.answers import PromptedModel, answers
from lowrung.commands import candidates, promote
from lowrung.config.schema import ModelConf
from lowrung.store import atomic, layout, results
from lowrung.store.layout import JobFolder, RunFolder, StudyFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track import lookup, registry
from lowrung.track.base import store_uri
from lowrung.track.mlflow import MlflowTracker
from lowrung.track.opening import create_store
from tests import warm
from tests.servers import free_port, tracking_server

NAME = "tiny-number_words"
PROMPTS = ["Write 47 in words.", "Write 8 in words."]

LOADED = """
import json, sys
import mlflow
prompts, *names = sys.argv[1:]
for name in names:
    print(json.dumps(mlflow.pyfunc.load_model(name).predict(json.loads(prompts), params={"new_tokens": 12})))
"""


@pytest.fixture
def forked(monkeypatch):
    """The registry's fresh processes are forked; one that imports all by itself is in tests/track/test_registry.py."""
    monkeypatch.setattr(registry, "subprocess", SimpleNamespace(run=warm.run_in_place_of_subprocess))


@pytest.fixture
def tracked(here, store):
    """The runs as a sweep has tracked them, by signature; trial 1 is the better one."""
    board(here)
    return track(here, store)


def track(here, uri):
    tracker = MlflowTracker(uri, "lowrung")
    runs = {}
    for signature in ("ab12", "cd34"):
        tags = {"lowrung.signature": signature, "lowrung.results": str(here / "runs" / signature)}
        runs[signature] = tracker.start_run(signature, tags=tags)
        tracker.end_run(runs[signature], Status.COMPLETE)
    return runs


def board(here, objectives="null", track="", **broken):
    """Leaves a study as it was started, and its leaderboard, on which cd34 is the best."""
    study = here / "multirun" / "mine"
    (study / "multirun.yaml").write_text(f"hydra:\n  sweeper:\n    objectives: {objectives}\n{track}")
    rows = [
        {"trial": number, "broken": broken.get(signature, []), "runs": [{"seed": 0}]}
        for number, signature in ((1, "cd34"), (0, "ab12"))
    ]
    atomic.write_json(study / "leaderboard.json", rows)


def outcome(here, signature, **changed):
    """Writes another outcome of a run."""
    file = RunFolder(here / "runs" / signature).outcome
    known = Outcome.read(file)
    assert known is not None
    values = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)} | changed
    metrics = {name: value for name, value in values["metrics"].items() if value is not None}
    Outcome(**{**values, "metrics": metrics}).write(file)


def without_gate(here, signature):
    known = Outcome.read(RunFolder(here / "runs" / signature).outcome)
    assert known is not None
    outcome(here, signature, metrics={**known.metrics, "merge/passed": None})


def failed_gate(here, signature):
    known = Outcome.read(RunFolder(here / "runs" / signature).outcome)
    assert known is not None
    facts = {"gate_failures": ["float32: mean KL must be <= 1e-08, but is 0.5"]}
    outcome(here, signature, metrics={**known.metrics, "merge/passed": 0.0}, facts=facts)


def client(here):
    return MlflowClient(store_uri(None, here))


def versions(here):
    return client(here).search_model_versions(f"name = '{NAME}'")


def loaded_in_a_fresh_process(uri, *models):
    """What MLflow's own users get of each; nothing of lowrung can be imported."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    block = "import sys; sys.modules['lowrung'] = None\n"
    done = warm.run(["-c", block + LOADED, json.dumps(PROMPTS), *models], Path.cwd(), environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()[-len(models) :]]


def said_by(base, adapter=None):
    (output,) = answers([PromptedModel(base, adapter)], PROMPTS, new_tokens=12, batch_size=1)
    return output


def files_of(version):
    folder = Path(unquote(urlsplit(version.source).path))
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_best_run_becomes_the_champion_and_answers_like_its_adapter_merged_too(here, tracked, capsys):
    main(["promote"])
    printed = capsys.readouterr().out
    assert f"registered:  {NAME}, version 1: the adapter of mine/1, run cd34, eval/loss " in printed
    assert "loaded by MLflow in a fresh process, it gives the same 4 of 4 answers (the base alone: " in printed
    assert "), and max |Δlogit| is " in printed
    assert f"alias:       models:/{NAME}@champion\n" in printed

    adapter = RunFolder(here / "runs" / "cd34").adapter
    version = client(here).get_model_version_by_alias(NAME, "champion")
    assert version.run_id == tracked["cd34"]
    tags = version.tags
    assert tags["lowrung.signature"] == "cd34"
    assert tags["lowrung.form"] == "adapter"
    assert tags["lowrung.base"] == "embedded:tiny"
    assert tags["lowrung.gate"] == "passed"
    assert tags["lowrung.objective"] == "eval/loss"
    assert float(tags["lowrung.objective_value"]) > 0
    assert version.description.startswith(f"# {NAME}\n")
    assert "The merged-vs-adapter gate after training: passed." in version.description

    files = files_of(version)
    weights = [name for name in files if name.endswith(".safetensors")]
    assert weights == [f"data/{NAME}/adapter_model.safetensors"]
    assert files[weights[0]].read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert not [name for name in files if name.endswith((".pkl", ".bin", ".pt", ".pth"))]
    assert not RunFolder(here / "runs" / "cd34").scratch.exists()

    main(["promote", "mine/1"])
    assert "was registered and verified before" in capsys.readouterr().out
    assert len(versions(here)) == 1

    main(["promote", tracked["cd34"], "--merged"])  # the merged model beside it, by MLflow's id
    assert f"alias:       models:/{NAME}@champion, which was version 1 before" in capsys.readouterr().out
    assert {version.tags["lowrung.form"] for version in versions(here)} == {"adapter", "merged"}
    files = files_of(client(here).get_model_version_by_alias(NAME, "champion"))
    assert f"data/{NAME}/model.safetensors" in files
    assert not [name for name in files if name.endswith((".pkl", ".bin", ".pt", ".pth"))]

    expected = said_by(ModelConf("embedded:tiny"), adapter)
    assert expected != said_by(ModelConf("embedded:tiny"))
    assert expected == said_by(ModelConf(str(files[f"data/{NAME}/model.safetensors"].parent)))
    both = (f"models:/{NAME}/1", f"models:/{NAME}@champion")
    assert loaded_in_a_fresh_process(store_uri(None, here), *both) == [expected, expected]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_an_adapter_that_mlflow_would_load_without_effect_is_not_promoted(here, tracked, monkeypatch, capsys):
    """Nothing is left of it; tests/track/test_registry.py has the versions and aliases that there were before."""
    deaf = here / "deaf.py"
    loader = Path(pyfunc_loader.__file__).read_text()
    assert "model = PeftModel.from_pretrained(model, folder)" in loader
    deaf.write_text(loader.replace("model = PeftModel.from_pretrained(model, folder)", "pass"))
    monkeypatch.setattr(pyfunc_loader, "__file__", str(deaf))
    with pytest.raises(SystemExit) as ended:
        main(["promote", "cd34"])
    assert ended.value.code == 1
    assert f"models:/{NAME}/1 must answer as the model that was registered, but its answers" in capsys.readouterr().err
    assert client(here).search_registered_models() == []
    assert not RunFolder(here / "runs" / "cd34").scratch.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_an_adapter_whose_answers_are_right_and_whose_logits_are_not_is_not_promoted(
    here, tracked, monkeypatch, capsys
):
    """Its scaling is off by one percent, which no answer shows."""
    loader = Path(pyfunc_loader.__file__).read_text()
    line = "        model = PeftModel.from_pretrained(model, folder)\n"
    assert line in loader
    fault = "        for m in model.modules():\n            if hasattr(m, 'lora_A'): m.scaling['default'] *= 1.01\n"
    (here / "off.py").write_text(loader.replace(line, line + fault))
    monkeypatch.setattr(pyfunc_loader, "__file__", str(here / "off.py"))
    with pytest.raises(SystemExit) as ended:
        main(["promote", "cd34"])
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert "but only its answers are the same: the first token of each answer: max |Δlogit| must be <= 0.001" in message
    assert versions(here) == []


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_tracking_server_has_the_champion_too(here, tmp_path):
    with tracking_server(tmp_path) as (_, uri):
        create_store(uri, "lowrung", here)
        runs = track(here, uri)
        for signature in runs:
            config = RunFolder(here / "runs" / signature).config
            config.write_text(config.read_text().replace("uri: null", f"uri: {uri}"))
        board(here)
        promoted = promote.promote("mine", registered="words", alias="best")
        assert promoted.uri == uri
        assert lookup.by_signature(uri, "cd34") == lookup.by_id(uri, runs["cd34"])
        assert "in a fresh process, it gives the same 4 of 4 answers" in str(promoted)
        assert MlflowClient(uri).get_model_version_by_alias("words", "best").run_id == runs["cd34"]


def test_what_did_not_pass_the_gate_is_passed_over(here, tracked):
    failed_gate(here, "cd34")
    best, passed_over = candidates.best(StudyFolder(here / "multirun" / "mine"))
    assert best.trial == "mine/0"
    (other,) = passed_over
    assert other.trial == "mine/1"
    assert str(other.refusal).startswith("it must have passed the gate, but failed: float32: mean KL must be <= 1e-08")


def test_a_study_tracks_results_of_others_in_its_own_store(here, tracked):
    config = RunFolder(here / "runs" / "cd34").config
    config.write_text(config.read_text().replace("kind: mlflow", "kind: none"))
    assert candidates.uri_of(RunFolder(here / "runs" / "cd34"), here) is None
    board(here, track="track:\n  kind: mlflow\n  uri: sqlite:///other.db\n")
    assert candidates.uri_of(RunFolder(here / "runs" / "cd34"), here) == f"sqlite:///{here / 'other.db'}"


class TestRefused:
    """Each before anything is registered."""

    @pytest.fixture(autouse=True)
    def nothing_is_registered(self, here):
        yield
        if (here / "mlflow.db").exists():
            assert client(here).search_registered_models() == []

    def test_a_run_that_failed_its_gate_and_the_best_that_passed_is_said(self, here, tracked, refused):
        failed_gate(here, "cd34")
        message = refused("promote", "mine/1")
        assert "mine/1 cannot be promoted: it must have passed the gate, but failed: float32: mean KL" in message
        assert "The best run of mine that can be promoted is mine/0." in message

    def test_a_name_that_nothing_has(self, here, tracked, refused):
        message = refused("promote", "mihne")
        assert "there is none of that name" in message
        assert "Nor is it a study. Did you mean mine?" in message

    def test_a_run_whose_gate_was_off(self, here, tracked, refused):
        without_gate(here, "ab12")
        message = refused("promote", "ab12")
        assert "the gate was off (verify=none). Train it with verify=default." in message
        assert "The best run of mine that can be promoted is mine/1." in message

    def test_an_adapter_that_was_changed_since_its_run(self, here, tracked, refused):
        run = RunFolder(here / "runs" / "ab12")
        known = Outcome.read(run.outcome)
        assert known is not None
        results.save(known, run, results.claim(run))
        file = run.adapter / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes() + b" ")
        message = refused("promote", "ab12")
        assert (
            "it must be what its run left, but adapter/adapter_model.safetensors is not what the run left." in message
        )

    def test_a_study_of_which_none_passed_with_each_reason(self, here, tracked, refused):
        without_gate(here, "ab12")
        failed_gate(here, "cd34")
        message = refused("promote", "mine")
        assert message.startswith("3 errors:\n  - mine must have a complete run that passed the gate, but has none.\n")
        assert "  - mine/1: it must have passed the gate, but failed" in message
        assert "  - mine/0: it must have passed the gate, but the gate was off" in message
        assert "mine has no run that can be promoted." in refused("promote", "mine/0")

    def test_a_study_of_which_none_is_complete(self, here, tracked, refused):
        for signature in ("ab12", "cd34"):
            outcome(here, signature, status=Status.FAILED, cause="a crash")
        message = refused("promote")
        assert "mine/1: it must be complete, but is failed: a crash." in message

    def test_a_run_that_breaks_a_constraint_and_one_that_is_gone(self, here, tracked, refused):
        board(here, cd34=["params/trainable <= 1000"])
        shutil.rmtree(here / "runs" / "ab12")
        message = refused("promote", "mine")
        assert "mine/1: it must meet the study's constraints, but breaks params/trainable <= 1000." in message
        assert "mine/0: it must have run to its end" in message

    def test_no_study_and_one_that_has_not_ended(self, here, tracked, refused):
        (here / "multirun" / "mine" / "leaderboard.json").unlink()
        assert "mine must have ended for its best run to be known" in refused("promote")
        shutil.rmtree(here / "multirun")
        assert f"there is no study in {here / 'multirun'}. Run a sweep first" in refused("promote")

    def test_a_run_that_was_not_tracked(self, here, tracked, refused):
        tracker = MlflowClient(store_uri(None, here))
        tracker.delete_run(tracked["cd34"])
        assert "has no run of its signature, cd34. Run the same sweep (-m) again" in refused("promote")
        config = RunFolder(here / "runs" / "cd34").config
        config.write_text(config.read_text().replace("kind: mlflow", "kind: none"))
        assert "mine/1 must have been tracked to be promoted, but was run with track=none." in refused("promote")

    def test_a_store_that_is_missing_or_away(self, here, refused, monkeypatch):
        board(here)
        assert "There is no database at " in refused("promote")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        config = RunFolder(here / "runs" / "cd34").config
        config.write_text(config.read_text().replace("uri: null", f"uri: http://127.0.0.1:{free_port()}"))
        message = refused("promote")
        assert "mine/1 must be in a store that answers and has a model registry, but http://127.0.0.1:" in message

    def test_a_name_and_an_alias_that_mlflow_does_not_take(self, here, tracked, refused):
        message = refused("promote", "--name", "a/b", "--alias", "v1")
        assert message.startswith("2 errors:\n  - --name must ")

    def test_an_adapter_by_itself_and_an_unknown_name(self, here, tracked, adapter, refused):
        shutil.copytree(adapter, here / "elsewhere")
        assert "must be a run, since the gate and the scores are a run's" in refused("promote", "elsewhere")
        assert "Did you mean mine/0?" in refused("promote", "mini/0")


class TestSeeds:
    def test_the_first_seed_that_passed_stands_for_its_trial(self, here, tracked, refused):
        study = here / "multirun" / "mine"
        for seed, signature in ((0, "ab12"), (1, "cd34")):
            layout.point_to(JobFolder(study / "2" / f"seed_{seed}").run, here / "runs" / signature)
        atomic.write_json(study / "leaderboard.json", [{"trial": 2, "broken": [], "runs": [{"seed": 0}, {"seed": 1}]}])
        failed_gate(here, "ab12")
        assert "The best run of mine that can be promoted is mine/2/seed_1." in refused("promote", "mine/2/seed_0")


def test_another_objective_is_said(here, tracked):
    board(here, objectives="{params/trainable: minimize}")
    best, passed_over = candidates.best(StudyFolder(here / "multirun" / "mine"))
    assert (best.trial, best.objective, passed_over) == ("mine/1", "params/trainable", [])
    assert best.value == 1792
