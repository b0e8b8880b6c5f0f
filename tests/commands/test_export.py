"""`lowrung export`: what TRL is given trains to the same losses, and what a tool cannot do is refused."""

import json
import re

import pytest
import torch
from omegaconf import OmegaConf

from lowrung.__main__ import main
from lowrung.adapters.tools import TOOLS, trl
from lowrung.commands import export
from lowrung.finetune.models import pretrained
from lowrung.store.outcome import Outcome, Status
from tests import warm
from tests.commands.conftest import change_config
from tests.terminal import environment, succeeds

SMALL = ("model=tiny", "train=smoke", "data=number_words", "data.train_size=12", "data.eval_size=4", "verify=none")
CHOSEN = ("lora.r=4", "lora.use_rslora=true", "lora.dropout=0.1", "train.weight_decay=0.01", "track=none")

SFT = "import runpy; runpy.run_module('trl.scripts.sft', run_name='__main__')"


@pytest.mark.slow
def test_trl_trains_to_the_same_losses(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    succeeds(tmp_path, *SMALL, *CHOSEN)
    (file,) = tmp_path.glob("runs/*/reports.jsonl")
    main(["export", file.parent.name, "--to", "trl", "--out", "there", "--json"])
    exported = json.loads(capsys.readouterr().out)
    done = warm.run(["-c", SFT, "--config", exported["config"]], tmp_path, environment())
    assert done.returncode == 0, done.stderr
    (state,) = (tmp_path / "there" / "trained").glob("checkpoint-*/trainer_state.json")
    theirs = [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    reports = [json.loads(line)["metrics"] for line in file.read_text().splitlines()]
    ours = [metrics["train/loss"] for metrics in reports if "train/loss" in metrics]
    assert len(ours) > 1
    assert theirs == pytest.approx(ours, rel=1e-5)


@pytest.mark.parametrize(
    ("group", "values", "said"),
    [
        ("lora", {"method": "full"}, "lora=full has no adapter"),
        ("lora", {"init": "loftq"}, "lora.init=loftq is no init"),
        ("lora", {"init": "eva"}, "lora.init=eva is no init"),
        ("lora", {"init": "corda"}, "lora.init=corda is no init"),
        ("lora", {"rank_pattern": {"q_proj": 8}}, "lora.rank_pattern={'q_proj': 8} has no field"),
        ("lora", {"lora_plus_ratio": 16.0}, "lora.lora_plus_ratio=16.0 has no field"),
        ("lora", {"alpha": 1.5}, "lora.alpha=1.5 must be whole"),
        ("lora", {"bias": "all"}, "lora.bias=all trains biases"),
        ("lora", {"peft": {"exclude_modules": ["q_proj"]}}, "lora.peft.exclude_modules=['q_proj'] has no field"),
        ("model", {"added_tokens": ["<a>"]}, "model.added_tokens adds rows"),
        ("model", {"quantization": "nf4"}, "model.quantization=nf4 has norms, head and embeddings in float32"),
        ("train", {"packing": True}, "train.packing=true fills rows"),
        ("train", {"early_stopping": 3}, "train.early_stopping=3 ended the run"),
    ],
)
@pytest.mark.usefixtures("whole")
def test_what_trl_cannot_do_is_refused(here, refused, group, values, said):
    change_config(here, "ab12", group, **values)
    assert f"ab12 cannot be exported to trl: {said}" in refused("export", "ab12", "--to", "trl")
    assert not (here / "ab12-trl").exists()


@pytest.mark.parametrize("tool", export.TOOLS)
def test_what_no_tool_can_do_is_refused_for_each(here, whole, refused, tool):
    change_config(here, "ab12", "train", packing=True, lr_scheduler_type="reduce_lr_on_plateau")
    change_config(here, "ab12", "model", quantization="nf4")
    text = refused("export", "ab12", "--to", tool)
    for said in (
        "train.packing=true fills rows",
        "reduce_lr_on_plateau lowers the rate by",
        "quantization=nf4 has norms",
    ):
        assert f"ab12 cannot be exported to {tool}: " in text
        assert said in text


@pytest.mark.parametrize("tool", export.TOOLS)
def test_a_base_that_has_changed_and_rows_that_are_gone_are_refused(here, whole, refused, tool):
    environment = {**json.loads(whole.environment.read_text()), "model_fingerprint": "another", "tokens": "none"}
    whole.environment.write_text(json.dumps(environment))
    text = refused("export", "ab12", "--to", tool)
    assert "must be the base that was trained on" in text
    assert "The run's rows must be in" in text


def test_each_tool_that_is_offered_is_there():
    assert tuple(TOOLS) == export.TOOLS


def test_a_precision_that_a_gpu_chose_is_not_guessed(whole, refused, monkeypatch):
    monkeypatch.setattr(pretrained, "device", lambda: torch.device("cpu"))
    whole.environment.write_text(json.dumps({**json.loads(whole.environment.read_text()), "device": "cuda"}))
    assert "model.dtype=auto was chosen for cuda, and there is none here" in refused("export", "ab12", "--to", "trl")


def test_one_target_module_is_a_pattern_that_trl_does_not_take_for_a_whole_path():
    layers = [f"model.layers.{number}.self_attn.q_proj" for number in range(2)]
    pattern = trl._names(["q_proj"])
    assert isinstance(pattern, str)  # as TRL makes of a list of one, and PEFT matches with the whole path
    assert all(re.fullmatch(pattern, layer) for layer in [*layers, "q_proj"])
    assert not re.fullmatch(pattern, "model.layers.0.self_attn.kq_proj")
    assert trl._names(["v_proj", "q_proj"]) == ["q_proj", "v_proj"]


@pytest.mark.usefixtures("whole")
def test_the_config_names_layers_and_rows_as_they_were_trained(here, capsys):
    (here / "multirun" / "mine").rename(here / "multirun" / "[mine] $HOME")
    main(["export", "[mine] $HOME/0", "--to", "trl"])
    folder = here / "-mine- -HOME-0-trl"  # datasets would find no rows in the other one
    assert f"trl sft --config '{folder / 'sft.yaml'}'" in capsys.readouterr().out
    values = OmegaConf.load(folder / "sft.yaml")
    assert (values.lora_r, values.lora_alpha, values.max_steps) == (4, 8, 2)
    assert "q_proj" in values.lora_target_modules
    assert values.dataset_name == str(folder / "data")
    assert [file.name for file in (folder / "data").iterdir()] == ["train.parquet"]


def test_bad_input_is_refused(here, whole, refused):
    assert "Did you mean mine/0?" in refused("export", "mini/0", "--to", "trl")
    assert "invalid choice: 'unsloth'" in refused("export", "ab12", "--to", "unsloth")
    (here / "full").mkdir()
    (here / "full" / "file").write_text("")
    assert "--out must be a folder that is empty" in refused("export", "ab12", "--to", "trl", "--out", "full")
    for name in ("a[b]", "a*", "what?", "$HOME", "a::b"):
        assert "--out must give a path without [, ]" in refused("export", "ab12", "--to", "trl", "--out", name)
    Outcome(Status.DIVERGED, cause="NaN").write(whole.outcome)
    assert "ab12 must be complete, but is diverged." in refused("export", "ab12", "--to", "trl")
    whole.outcome.unlink()
    assert "ab12 must be complete, but is unfinished." in refused("export", "ab12", "--to", "trl")
