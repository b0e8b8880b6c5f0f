"""`lowrung combine` on adapters that were trained."""

import shutil

import pytest
import torch
from mlflow import MlflowClient
from peft import PeftModel

from lowrung.__main__ import main
from lowrung.adapters import files
from lowrung.config.schema import ModelConf
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.models import pretrained
from lowrung.store import atomic
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from lowrung.track.mlflow import MlflowTracker
from tests.servers import free_port


@pytest.mark.slow
def test_the_result_is_saved_whole_and_scored_beside_its_parts(here, capsys):
    main(["combine", "mine/0", "mine/1", "--to", "both", "--method", "cat", "--weights", "1", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"combined:  {here / 'both'}"
    table = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert list(table) == ["base", "mine/0", "mine/1", "combined"]
    metrics = Outcome.read(RunFolder(here / "runs" / "ab12").outcome)
    assert metrics is not None
    assert table["mine/0"] == [f"{metrics.metrics['eval/loss']:.4f}"]  # the parts' data are the same
    assert table["base"] == [f"{metrics.metrics['base/eval_loss']:.4f}"]
    assert table["combined"][0] not in (table["mine/0"][0], table["mine/1"][0])
    assert files.read(here / "both").config.r == 8
    assert pretrained.load_tokenizer(here / "both").chat_template
    PeftModel.from_pretrained(pretrained.load_base(ModelConf("embedded:tiny"), torch.device("cpu")), str(here / "both"))


def has_other_data(here, signature):
    """Gives a run held-out examples of its own."""
    folder = RunFolder(here / "runs" / signature)
    (tokens,) = (here / "runs" / ".tokens").iterdir()
    other = shutil.copytree(tokens, tokens.with_name("other"), ignore=shutil.ignore_patterns("eval"))
    Prepared.load(tokens).eval.select(range(4)).save_to_disk(other / "eval")
    atomic.write_json(folder.environment, {"tokens": "other"})


@pytest.mark.slow
def test_equal_weights_and_svd_are_the_default(here, capsys):
    (here / "both").mkdir()
    main(["combine", "mine/0", "runs/ab12", "--to", "both"])
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[3:]}
    assert table["combined"] == pytest.approx(table["mine/0"])  # half of it twice


@pytest.mark.slow
def test_without_held_out_examples_it_says_so(here, capsys):
    for name in ("ab12", "cd34"):
        shutil.copytree(here / "runs" / name / "adapter", here / name)
    main(["combine", "ab12", "cd34", "--to", "both"])
    assert "not scored: no adapter is in a run whose held-out examples" in capsys.readouterr().out


@pytest.mark.slow
class TestTracked:
    @pytest.fixture
    def part(self, store):
        """The first part as it was tracked; the second was not."""
        tracker = MlflowTracker(store, "lowrung")
        part = tracker.start_run("r=4", tags={"lowrung.signature": "ab12"})
        tracker.end_run(part, Status.COMPLETE)
        return part

    def test_the_result_is_recorded_beside_its_parts(self, here, store, part, capsys):
        client = MlflowClient(store)
        has_other_data(here, "cd34")
        main(["combine", "mine/0", "cd34", "--to", "both", "--method", "ties_svd", "--density", "0.5", "--rank", "3"])
        printed = capsys.readouterr().out
        (run,) = client.search_runs([client.get_run(part).info.experiment_id], "tags.`lowrung.kind` = 'combined'")
        assert printed.endswith(f"\ntracked:   run {run.info.run_id} of the experiment lowrung\n")
        assert run.info.status == "FINISHED"
        assert run.data.params == {
            "parts": "mine/0, cd34",
            "weights": "0.5, 0.5",
            "method": "ties_svd",
            "rank": "3",
            "density": "0.5",
        }
        assert run.data.tags["lowrung.parts"] == part
        assert run.data.tags["lowrung.results"] == str(here / "both")
        head, *lines = printed.split("\n\n")[1].splitlines()
        assert head.split()[-2:] == ["mine/0", "cd34"]
        shown = {line.split()[0]: line.split()[1:] for line in lines}
        metrics = {name: f"{value:.4f}" for name, value in run.data.metrics.items()}
        assert metrics == {
            f"eval/loss/{who.replace('/', '.')}/on/{part}": loss
            for who, losses in shown.items()
            for part, loss in zip(("mine.0", "cd34"), losses, strict=True)
        }
        kept = {path.path for path in client.list_artifacts(run.info.run_id, "both")}
        assert {"both/adapter_config.json", "both/adapter_model.safetensors"} <= kept
        main(["inspect", run.info.run_id])
        assert capsys.readouterr().out.splitlines()[0] == f"adapter     {here / 'both'}"

    @pytest.mark.slow
    def test_names_that_mlflow_does_not_take_are_told_apart(self, here, store, part, capsys):
        client = MlflowClient(store)
        for name in ("a b", "a+b"):
            shutil.copytree(here / "runs" / "ab12", here / "runs" / name)
        main(["combine", "runs/a b", "runs/a+b", "mine/0", "--to", "both"])
        assert "tracked:" in capsys.readouterr().out
        (run,) = client.search_runs([client.get_run(part).info.experiment_id], "tags.`lowrung.kind` = 'combined'")
        parts = ("1_runs.a_b", "2_runs.a_b", "mine.0")
        assert run.data.metrics.keys() == {f"eval/loss/{whose}" for whose in ("base", "combined", *parts)}

    def test_a_store_that_is_away_is_said_and_the_result_kept(self, here, monkeypatch, capsys):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        config = here / "runs" / "ab12" / "config.yaml"
        config.write_text(config.read_text().replace("uri: null", f"uri: http://127.0.0.1:{free_port()}"))
        main(["combine", "mine/0", "mine/1", "--to", "both"])
        assert "\n\nnot tracked: the store of the parts does not answer (MLflow: " in capsys.readouterr().out
        assert (here / "both" / "adapter_model.safetensors").is_file()

    @pytest.mark.slow
    def test_what_was_not_tracked_is_not_recorded(self, here, capsys):
        main(["combine", "mine/0", "mine/1", "--to", "both"])
        assert "tracked:" not in capsys.readouterr().out
        assert not (here / "mlflow.db").exists()


class TestRefused:
    def test_names_of_rows_of_the_table(self, here, refused):
        shutil.copytree(here / "runs" / "ab12" / "adapter", here / "base")
        assert "No adapter may be called base" in refused("combine", "base", "mine/0", "--to", "both")

    def test_weights_that_do_not_match_and_one_adapter_twice(self, here, refused):
        message = refused("combine", "mine/0", "mine/0", "--to", "both", "--weights", "1")
        assert message.startswith("2 errors:")
        assert "--weights must have a number for each of 2 adapters, but has 1." in message
        assert not (here / "both").exists()

    @pytest.mark.slow
    def test_a_method_that_needs_a_density(self, here, refused):
        assert "density must be above 0" in refused("combine", "mine/0", "mine/1", "--to", "both", "--method", "ties")
        assert not (here / "both").exists()

    def test_a_folder_that_is_not_empty(self, here, refused):
        assert "is not. Name another." in refused("combine", "mine/0", "mine/1", "--to", "runs")

    def test_adapters_of_two_bases(self, here, refused):
        config = here / "runs" / "cd34" / "config.yaml"
        config.write_text(config.read_text().replace("embedded:tiny", "embedded:tiny_gpt2"))
        assert "Adapters must share their base" in refused("combine", "mine/0", "mine/1", "--to", "both")
