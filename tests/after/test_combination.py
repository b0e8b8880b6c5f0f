"""`lowrung combine` on adapters that were trained."""

import shutil

import pytest
import torch
from peft import PeftModel

from lowrung.__main__ import main
from lowrung.adapters import saved
from lowrung.finetune import model as models
from lowrung.finetune.model import Base
from lowrung.layout import RunFolder
from lowrung.outcome import Outcome


def test_the_result_is_saved_whole_and_scored_beside_its_parts(place, capsys):
    main(["combine", "mine/0", "mine/1", "--to", "both", "--method", "cat", "--weights", "1", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"combined:  {place / 'both'}"
    table = {line.split()[0]: line.split()[1:] for line in lines[3:]}
    assert list(table) == ["base", "mine/0", "mine/1", "combined"]
    metrics = Outcome.read(RunFolder(place / "runs" / "ab12").outcome)
    assert metrics is not None
    assert table["mine/0"] == [f"{metrics.metrics['eval/loss']:.4f}"] * 2
    assert table["base"] == [f"{metrics.metrics['base/eval_loss']:.4f}"] * 2
    assert table["combined"][0] not in (table["mine/0"][0], table["mine/1"][0])
    assert saved.read(place / "both").config.r == 8
    assert models.load_tokenizer(place / "both").chat_template
    PeftModel.from_pretrained(models.load_base(Base("embedded:tiny"), torch.device("cpu")), str(place / "both"))


def test_equal_weights_and_svd_are_the_default(place, capsys):
    (place / "both").mkdir()
    main(["combine", "mine/0", "runs/ab12", "--to", "both"])
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[3:]}
    assert table["combined"] == pytest.approx(table["mine/0"])  # half of it twice


def test_without_held_out_examples_it_says_so(place, capsys):
    for name in ("ab12", "cd34"):
        shutil.copytree(place / "runs" / name / "adapter", place / name)
    main(["combine", "ab12", "cd34", "--to", "both"])
    assert "not scored: no adapter has the held-out examples" in capsys.readouterr().out


class TestRefused:
    def test_weights_that_do_not_match_and_one_adapter_twice(self, place, refused):
        message = refused("combine", "mine/0", "mine/0", "--to", "both", "--weights", "1")
        assert message.startswith("2 errors:")
        assert "--weights must be one an adapter, but there are 1 for 2 adapters." in message
        assert not (place / "both").exists()

    def test_a_method_that_needs_a_density(self, place, refused):
        assert "density must be over 0" in refused("combine", "mine/0", "mine/1", "--to", "both", "--method", "ties")
        assert not (place / "both").exists()

    def test_a_folder_that_is_not_empty(self, place, refused):
        assert "is not. Name another." in refused("combine", "mine/0", "mine/1", "--to", "runs")

    def test_adapters_of_two_bases(self, place, refused):
        config = place / "runs" / "cd34" / "config.yaml"
        config.write_text(config.read_text().replace("embedded:tiny", "embedded:tiny_gpt2"))
        assert "Adapters must share their base" in refused("combine", "mine/0", "mine/1", "--to", "both")
