"""`lowrung export`: what TRL is given trains to the same losses, and what it cannot do is refused."""

import dataclasses
import json
import re

import pytest
from omegaconf import OmegaConf

from lowrung.__main__ import main
from lowrung.adapters import for_trl
from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.errors import UsageError
from lowrung.store.layout import RunFolder
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


@pytest.fixture
def whole(here):
    """The first run, with what a command would have left of it."""
    change_config(here, "ab12", "train", learning_rate=1e-3, max_steps=2, batch_size=4, eval_batch_size=4, eval_steps=1)
    run = RunFolder(here / "runs" / "ab12")
    run.environment.write_text(json.dumps({**json.loads(run.environment.read_text()), "device": "cpu"}))
    return run


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


CHANGED = {
    "model": {
        **{"revision": "abc", "dtype": "bfloat16", "attn_implementation": "eager", "quantization": "int8"},
        **{"device_map": "auto", "trust_remote_code": True, "added_tokens": ["<a>"]},
    },
    "lora": {
        **{"method": "full", "r": 2, "alpha": 2.0, "dropout": 0.5, "bias": "all", "use_rslora": True, "use_dora": True},
        **{"init": "pissa", "trainable_token_indices": [1], "rank_pattern": {"q_proj": 8}},
        **{"alpha_pattern": {"q_proj": 8}, "layers_to_transform": [0], "lora_plus_ratio": 2.0},
        "peft": {"exclude_modules": ["q_proj"]},
    },
    "train": {
        **{"learning_rate": 0.5, "rate_factor": 3.0, "max_steps": 7, "batch_size": 2, "gradient_accumulation_steps": 2},
        **{"early_stopping": 3, "lr_scheduler_type": "cosine", "warmup_ratio": 0.5, "weight_decay": 0.5},
        **{"max_grad_norm": 0.5, "packing": True, "gradient_checkpointing": True, "sft": {"adam_beta2": 0.5}},
        "parallel": "ddp",
    },
}
"""Another value of each setting; all are refused, or are in what is written."""

ELSEWHERE = {
    "model": {
        "path": "is the base's folder or id",
        "double_quantization": "counts only with nf4, which is refused",
    },
    "lora": {
        "init_examples": "counts only with an init that is refused",
        **dict.fromkeys(("target_modules", "experts", "modules_to_save"), "taken from adapter_config.json"),
    },
    "train": {
        "epochs": "given as steps",
        "ranks": "the file's head has their number with train.parallel",
        **dict.fromkeys(("eval_batch_size", "eval_steps"), "the file's head says that nothing is evaluated"),
        **dict.fromkeys(
            ("save_steps", "save_total_limit"), "the file's head says that the last adapter alone is saved"
        ),
    },
}


@pytest.mark.parametrize(("group", "conf"), [("model", ModelConf), ("lora", LoraConf), ("train", TrainConf)])
def test_no_setting_is_dropped(here, whole, tmp_path, group, conf):
    assert {field.name for field in dataclasses.fields(conf)} == {*CHANGED[group], *ELSEWHERE[group]}
    recorded = whole.config.read_text()

    def written(name):
        try:
            made = for_trl.Export.of(whole)
        except UsageError as error:
            return error.problems
        (tmp_path / name).mkdir()
        made.write(tmp_path / name, tmp_path)
        return (tmp_path / name / for_trl.CONFIG).read_text()

    before = written("before")
    for name, value in CHANGED[group].items():
        change_config(here, "ab12", group, **{name: value})
        assert written(name) != before, name
        whole.config.write_text(recorded)


def test_a_precision_that_a_gpu_chose_is_not_guessed(whole, refused):
    whole.environment.write_text(json.dumps({**json.loads(whole.environment.read_text()), "device": "cuda"}))
    assert "model.dtype=auto was chosen for cuda, and there is none here" in refused("export", "ab12", "--to", "trl")


def test_one_target_module_is_a_pattern_that_trl_does_not_take_for_a_whole_path():
    layers = [f"model.layers.{number}.self_attn.q_proj" for number in range(2)]
    pattern = for_trl._names(["q_proj"])
    assert isinstance(pattern, str)  # as TRL makes of a list of one, and PEFT matches with the whole path
    assert all(re.fullmatch(pattern, layer) for layer in [*layers, "q_proj"])
    assert not re.fullmatch(pattern, "model.layers.0.self_attn.kq_proj")
    assert for_trl._names(["v_proj", "q_proj"]) == ["q_proj", "v_proj"]


@pytest.mark.usefixtures("whole")
def test_the_config_names_layers_and_rows_as_they_were_trained(here, capsys):
    main(["export", "mine/0", "--to", "trl"])
    folder = here / "mine-0-trl"
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
    Outcome(Status.DIVERGED, cause="NaN").write(whole.outcome)
    assert "ab12 must be complete, but is diverged." in refused("export", "ab12", "--to", "trl")
    whole.outcome.unlink()
    assert "ab12 must be complete, but is unfinished." in refused("export", "ab12", "--to", "trl")
