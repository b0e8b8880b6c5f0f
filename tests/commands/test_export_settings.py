"""`lowrung export`, setting by setting: each is in what a tool is given, or is refused or noted in words."""

import dataclasses
from typing import Any

import pytest
from datasets import load_dataset, load_from_disk
from omegaconf import OmegaConf

from lowrung.__main__ import main
from lowrung.adapters.tools import TOOLS
from lowrung.config import structured
from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.finetune.models import pretrained
from lowrung.finetune.training import sft_fields
from lowrung.store.layout import RunFolder
from tests.commands.conftest import TOKENS

LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]

CHANGED = {
    "model": {
        **{"dtype": "bfloat16", "attn_implementation": "eager", "quantization": "int8"},
        **{"device_map": "auto", "trust_remote_code": True, "added_tokens": ["<a>"]},
    },
    "lora": {
        **{"method": "full", "r": 2, "alpha": 2.0, "dropout": 0.5, "bias": "all", "use_rslora": True, "use_dora": True},
        **{"init": "pissa", "trainable_token_indices": [1], "rank_pattern": {"q_proj": 8}, "lora_plus_ratio": 2.0},
        **{"alpha_pattern": {"q_proj": 8}, "layers_to_transform": [0], "peft": {"exclude_modules": ["q_proj"]}},
        **{"target_modules": ["q_proj"], "experts": True, "modules_to_save": ["lm_head"]},
    },
    "train": {
        **{"learning_rate": 0.5, "rate_factor": 3.0, "max_steps": 7, "batch_size": 2, "gradient_accumulation_steps": 2},
        **{"early_stopping": 3, "lr_scheduler_type": "cosine", "warmup_ratio": 0.5, "weight_decay": 0.5},
        **{"max_grad_norm": 0.5, "packing": True, "gradient_checkpointing": True, "sft": {"adam_beta2": 0.5}},
        "parallel": "ddp",
    },
}
"""Another value of each setting; all are refused, or are in what is written."""

SAVED: dict[str, dict[str, Any]] = {
    "experts": {"target_parameters": ["mlp.experts.down_proj"]},
    "peft": {"exclude_modules": ["q_proj"]},
}
"""What PEFT's settings hold instead of lowrung's; else they have the same name and value, if they have it."""

ELSEWHERE = {
    "model": {
        "path": "is the base's folder or id",
        "revision": "is the commit of a base on the hub",
        "double_quantization": "counts only with nf4, which is refused",
    },
    "lora": {"init_examples": "counts only with an init that is refused"},
    "train": {
        "epochs": "given as steps",
        "ranks": "the file's head has their number with train.parallel",
        **dict.fromkeys(("eval_batch_size", "eval_steps"), "the file's head says that nothing is evaluated"),
        **dict.fromkeys(
            ("save_steps", "save_total_limit"), "the file's head says that the last adapter alone is saved"
        ),
    },
}

SFT = {
    **{"adam_beta1": 0.5, "adam_beta2": 0.5, "adam_epsilon": 1e-4, "data_seed": 7, "neftune_noise_alpha": 5.0},
    **{"optim": "sgd", "optim_args": "momentum=0.5", "pad_to_multiple_of": 16, "torch_empty_cache_steps": 3},
    **{"lr_scheduler_kwargs": {"num_cycles": 2}, "train_sampling_strategy": "sequential", "warmup_steps": 2},
}


def given(made):
    """What a tool is given, with the notes; or why it is not."""
    return made.problems() or (made.values(made.run.path), made.notes)


def changed(made, group, saved=None, **values):
    """The export of a run with other settings, and with what PEFT saved of them."""
    part = dataclasses.replace(getattr(made.config, group), **values)
    other = dataclasses.replace(made, config=dataclasses.replace(made.config, **{group: part}))
    known = {name: value for name, value in (saved or {}).items() if name in made.adapter}
    vars(other)["adapter"] = {**made.adapter, **known}
    return other


def in_memory(tool, original):
    """The first run for a tool."""
    run = RunFolder(original / "runs" / "ab12")
    config = structured.resolve(OmegaConf.load(run.config))
    train = dataclasses.replace(config.train, learning_rate=1e-3, max_steps=2, batch_size=4)
    base = pretrained.fingerprint(pretrained.locate("embedded:tiny"))
    environment = {"device": "cpu", "tokens": TOKENS, "model_fingerprint": base}
    return TOOLS[tool](run, dataclasses.replace(config, train=train), environment)


@pytest.fixture(scope="module", params=TOOLS)
def made(request, original):
    return in_memory(request.param, original)


@pytest.mark.parametrize(("group", "conf"), [("model", ModelConf), ("lora", LoraConf), ("train", TrainConf)])
def test_no_setting_is_dropped(made, group, conf):
    assert {field.name for field in dataclasses.fields(conf)} == {*CHANGED[group], *ELSEWHERE[group]}
    before = given(made)
    for name, value in CHANGED[group].items():
        other = changed(made, group, SAVED.get(name, {name: value}), **{name: value})
        assert given(other) != before, name


def test_no_field_of_the_trainer_is_dropped(made):
    assert SFT.keys() == sft_fields.PASSED
    before = given(made)
    for name, value in SFT.items():
        assert given(changed(made, "train", sft={name: value})) != before, name


REFUSED: dict[str, list[tuple[str, dict[str, Any], str]]] = {
    "trl": [("lora", {"trainable_token_indices": [1]}, "lora.trainable_token_indices=[1] has no field in trl sft")],
    "axolotl": [
        ("lora", {"init": "pissa"}, "lora.init=pissa is no init that axolotl can be asked for"),
        ("lora", {"bias": "all"}, "lora.bias=all trains biases"),
        ("lora", {"alpha_pattern": {"q_proj": 1.5}}, "must be whole in axolotl"),
        ("lora", {"peft": {"use_bdlora": True}}, "lora.peft.use_bdlora=True has no field"),
        ("train", {"gradient_accumulation_steps": 2}, "weighs each token alike, and axolotl each forward pass"),
        ("train", {"warmup_ratio": 0.5}, "make no warm-up of one step, since axolotl makes it two"),
        ("train", {"sft": {"data_seed": 3}}, "train.sft.data_seed=3 has no field"),
    ],
    "llamafactory": [
        ("lora", {"init": "olora"}, "lora.init=olora is no init that llamafactory can be asked for"),
        ("lora", {"init": "pissa", "use_dora": True}, "loses DoRA's magnitudes"),
        ("lora", {"rank_pattern": {"q_proj": 8}}, "lora.rank_pattern={'q_proj': 8} has no field"),
        ("lora", {"experts": True}, "lora.experts=True has no field"),
        ("lora", {"trainable_token_indices": [1]}, "lora.trainable_token_indices=[1] has no field"),
        ("model", {"attn_implementation": "flex_attention"}, "is no attention of llamafactory"),
        ("model", {"dtype": "bfloat16"}, "must be what the base is stored in"),
        ("train", {"sft": {"neftune_noise_alpha": 5}}, "pads to a multiple of 8"),
    ],
}


def test_what_a_tool_cannot_do_is_refused(made):
    for group, values, said in REFUSED[made.TOOL]:
        (problem,) = changed(made, group, **values).problems()
        assert said in problem


def test_weight_decay_that_axolotl_would_drop_is_refused(made):
    both = changed(changed(made, "train", weight_decay=0.1), "lora", lora_plus_ratio=16.0)
    is_said = any("train.weight_decay=0.1 is dropped by axolotl's LoRA+" in problem for problem in both.problems())
    assert is_said == (made.TOOL == "axolotl")


@pytest.mark.slow
def test_axolotl_is_given_all_that_it_would_choose_otherwise(here, whole):
    main(["export", "ab12", "--to", "axolotl", "--out", "there"])
    folder = here / "there"
    values = OmegaConf.to_container(OmegaConf.load(folder / "axolotl.yaml"))
    rows = load_dataset("parquet", data_files=str(folder / "data" / "train.parquet"), split="train")
    assert values == {
        **{"base_model": str(pretrained.locate("embedded:tiny")), "trust_remote_code": False},
        **{"bf16": False, "fp16": False, "tf32": False, "load_in_8bit": False, "load_in_4bit": False},
        **{"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_linear": False},
        **{"lora_target_modules": LINEAR, "peft_use_rslora": False, "peft_use_dora": False},
        **{"peft_init_lora_weights": True, "lora_mlp_kernel": False, "lora_qkv_kernel": False},
        **{"lora_o_kernel": False, "lora_embedding_kernel": False},
        "datasets": [{"path": str(folder / "data" / "train.parquet"), "ds_type": "parquet", "split": "train"}],
        **{"dataset_prepared_path": str(folder / "prepared"), "shuffle_merged_datasets": False},
        **{"curriculum_sampling": False, "val_set_size": 0.0, "sequence_len": 256, "excess_length_strategy": "raise"},
        **{"sample_packing": False, "pad_to_sequence_len": False, "micro_batch_size": 4},
        **{"gradient_accumulation_steps": 1, "max_steps": 2, "learning_rate": 1e-3, "lr_scheduler": "linear"},
        **{"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "optimizer": "adamw_torch_fused"},
        **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "gradient_checkpointing": False, "seed": 0},
        **{"dataloader_num_workers": 0, "logging_steps": 1, "save_strategy": "no"},
        "output_dir": str(folder / "trained"),
    }
    require_rows(rows, whole)


@pytest.mark.slow
def test_llamafactory_is_given_all_that_it_would_choose_otherwise(here, whole):
    main(["export", "ab12", "--to", "llamafactory", "--out", "there"])
    folder = here / "there"
    assert OmegaConf.to_container(OmegaConf.load(folder / "train.yaml")) == {
        **{"stage": "sft", "do_train": True, "model_name_or_path": str(pretrained.locate("embedded:tiny"))},
        **{"trust_remote_code": False, "flash_attn": "auto", "finetuning_type": "lora"},
        **{"disable_gradient_checkpointing": True, "use_reentrant_gc": False},
        **{"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target": ",".join(LINEAR)},
        **{"use_rslora": False, "use_dora": False, "pissa_init": False},
        **{"dataset": "rows_of_lowrung", "tokenized_path": str(folder / "data"), "template": "empty"},
        **{"cutoff_len": 256, "packing": False, "val_size": 0.0, "learning_rate": 1e-3, "max_steps": 2},
        **{"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "lr_scheduler_type": "linear"},
        **{"warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "optim": "adamw_torch_fused"},
        **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "seed": 0, "disable_shuffling": False},
        **{"bf16": False, "fp16": False, "tf32": False, "eval_strategy": "no", "save_strategy": "no"},
        **{"logging_steps": 1, "logging_nan_inf_filter": False, "report_to": "none"},
        "output_dir": str(folder / "trained"),
    }
    require_rows(load_from_disk(folder / "data")["train"], whole)


def require_rows(rows, run):
    """Rows in the run's order, each with a mask of its length."""
    trained_on = TOOLS["trl"].of(run).data.train
    assert list(rows["input_ids"]) == list(trained_on["input_ids"])
    assert list(rows["labels"]) == list(trained_on["labels"])
    assert all(
        mask == [1] * len(tokens) for mask, tokens in zip(rows["attention_mask"], rows["input_ids"], strict=True)
    )


def test_layers_that_kinds_do_not_tell_are_named_one_by_one(made):
    saved = {"layers_to_transform": [1], "target_modules": r".*layers\.1\..*q_proj"}
    values = changed(made, "lora", saved).values(made.run.path)
    named = {
        "trl": lambda: values["lora_target_modules"] == saved["target_modules"],  # it takes a pattern
        "axolotl": lambda: "model.layers.1.self_attn.q_proj" in values["lora_target_modules"],
        "llamafactory": lambda: "model.layers.1.self_attn.q_proj" in values["lora_target"].split(","),
    }
    assert named[made.TOOL]()


def test_llamafactory_is_given_the_stable_part_that_it_would_choose_otherwise(original):
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "warmup_ratio": 0.25, "max_steps": 8}
    sft = {"lr_scheduler_kwargs": {"num_decay_steps": 2}}
    values = changed(in_memory("llamafactory", original), "train", sft=sft, **schedule).values(original)
    assert (values["warmup_steps"], values["lr_scheduler_kwargs"]) == (2, {"num_stable_steps": 4, "num_decay_steps": 2})


@pytest.mark.parametrize(("init", "iterations"), [("pissa", -1), ("pissa_niter_4", 4)])
def test_pissa_and_lora_plus_reach_llamafactory(original, init, iterations):
    made = changed(in_memory("llamafactory", original), "lora", init=init, lora_plus_ratio=16.0)
    values = made.values(original)
    assert made.problems() == []
    assert (values["pissa_init"], values["pissa_iter"], values["pissa_convert"]) == (True, iterations, True)
    assert (values["loraplus_lr_ratio"], values["optim"]) == (16.0, "adamw_torch")


def test_precisions_of_axolotl(original):
    made = in_memory("axolotl", original)
    values = changed(made, "model", dtype="float16").values(original)
    assert (values["bf16"], values["fp16"], values["float16"]) == (False, False, True)
    rounded = changed(made, "model", dtype="bfloat16")
    assert rounded.values(original)["bf16"] is True
    assert any("A and B in bfloat16" in note for note in rounded.notes)


NAMED = {
    "trl": ("model_name_or_path", "model_revision"),
    "axolotl": ("base_model", "revision_of_model"),
    "llamafactory": ("model_name_or_path", "model_revision"),
}


def test_a_base_on_the_hub_is_named_with_the_commit_that_was_trained_on(made, monkeypatch):
    monkeypatch.setattr(pretrained, "origin_of", lambda _: ("owner/tiny", "c0ffee"))
    values = changed(made, "model", path="owner/tiny").values(made.run.path)
    assert [values[name] for name in NAMED[made.TOOL]] == ["owner/tiny", "c0ffee"]
