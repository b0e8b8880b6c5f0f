"""The commands on adapters that were trained and saved by PEFT and transformers alone, as people's own scripts do."""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from lowrung.__main__ import main
from lowrung.adapters import files
from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained

CPU = torch.device("cpu")
TINY, GPT2 = "embedded:tiny", "embedded:tiny_gpt2"


@dataclasses.dataclass(frozen=True)
class Kind:
    """How an adapter was made.

    Attributes:
        lora: PEFT's settings, beside rank, alpha and targets.
        base: tiny's head is its own, tiny_gpt2's is tied to its embedding.
        token: what was added to the tokenizer and the matrices.
        saving: what `save_pretrained` was asked.
    """

    lora: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    base: str = TINY
    token: str | None = None
    saving: Mapping[str, Any] = dataclasses.field(default_factory=dict)


KINDS = {
    "plain": Kind(),
    "rslora": Kind({"use_rslora": True}),
    "dora": Kind({"use_dora": True}),
    "regex": Kind({"target_modules": r".*layers\.0.*q_proj"}),
    "biases that the base lacks": Kind({"bias": "lora_only"}),
    "biases": Kind({"bias": "all"}, GPT2),
    "head": Kind({"modules_to_save": ["lm_head"]}),
    "tied head": Kind({"modules_to_save": ["lm_head"]}, GPT2),
    "embedding and head, tied": Kind({"modules_to_save": ["wte", "lm_head"], "ensure_weight_tying": True}, GPT2),
    "LoRA on the head": Kind({"target_modules": ["q_proj", "lm_head"]}),
    "LoRA on the embedding": Kind({"target_modules": ["q_proj", "embed_tokens"]}),
    "rows": Kind({"trainable_token_indices": [1, 2]}),
    "rows of both": Kind({"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}),
    "tied rows": Kind({"trainable_token_indices": {"wte": [1, 2], "lm_head": [1, 2]}}, GPT2),
    "resized": Kind({}, TINY, "<x>", {"save_embedding_layers": True}),
    "tied and resized": Kind({}, GPT2, "<x>", {"save_embedding_layers": True}),
    "resized, matrices trained": Kind({"modules_to_save": ["embed_tokens", "lm_head"]}, TINY, "<x>"),
    "resized, rows trained": Kind({"trainable_token_indices": {"embed_tokens": [259], "lm_head": [259]}}, TINY, "<x>"),
    "resized, rows saved alone": Kind(
        {"trainable_token_indices": {"embed_tokens": [259], "lm_head": [259]}},
        TINY,
        "<x>",
        {"save_embedding_layers": False},
    ),
}
QUICK = ("plain",)
IDS = torch.arange(40).reshape(2, 20)


def trained(kind: Kind) -> Any:
    """Three steps on nonsense."""
    torch.manual_seed(0)
    folder = pretrained.folder_of(ModelConf(kind.base))
    model = AutoModelForCausalLM.from_pretrained(folder)
    if kind.token:
        model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)) + 1, mean_resizing=False)
    targets = {"target_modules": ["q_proj", "v_proj"]} if kind.base == TINY else {"target_modules": ["c_attn"]}
    settings = {**targets, "r": 4, "lora_alpha": 8, "fan_in_fan_out": kind.base == GPT2, **kind.lora}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], 1e-2)
    for _ in range(3):
        adapted(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapted.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(kind: Kind, folder: Any) -> Tensor:
    """Saves such an adapter; returns its logits before."""
    adapted = trained(kind)
    adapted.save_pretrained(folder, **kind.saving)
    if kind.token:
        tokenizer = AutoTokenizer.from_pretrained(pretrained.folder_of(ModelConf(kind.base)))
        tokenizer.add_tokens([kind.token])
        tokenizer.save_pretrained(folder)
    return logits(adapted)


def logits_of(folder: Any) -> Tensor:
    """What an adapter says as the commands load it."""
    base = files.base_of(files.read(folder))
    adapters = MultiAdapter(base, CPU)
    adapters.load("it", folder)
    adapters.switch("it")
    return logits(adapters.model)


def logits_of_copy(folder: Any, copy: Any) -> Tensor:
    """What PEFT makes of what the commands have adapters and saved, on the base with room for all tokens."""
    base = files.base_of(files.read(folder))
    adapters = MultiAdapter(base, CPU)
    adapters.load("it", folder)
    adapters.save("it", copy)
    return logits(PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(copy)).eval())


def is_near(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in KINDS])
def test_each_kind_is_inspected_asked_merged_and_combined(here, name, capsys):
    kind = KINDS[name]
    expected = save(kind, here / "mine")
    main(["inspect", "mine"])
    shown = capsys.readouterr().out
    assert ("adds        <x>\n" in shown) == (kind.token is not None)
    assert (" rows of " in shown) == ("trainable_token_indices" in kind.lora)
    assert is_near(logits_of(here / "mine"), expected)
    assert is_near(logits_of_copy(here / "mine", here / "copy"), expected)
    main(["generate", "mine", "--prompt", "hi", "--new-tokens", "2"])
    assert capsys.readouterr().out.startswith("hi\n  mine: ")
    main(["merge", "mine", "--to", "merged", "--dtype", "float32"])
    assert is_near(logits(AutoModelForCausalLM.from_pretrained(here / "merged").eval()), expected)
    if not kind.lora.get("use_dora"):
        shutil.copytree(here / "mine", here / "same")
        main(["combine", "mine", "same", "--to", "both", "--method", "cat"])
        assert is_near(logits_of(here / "both"), expected)


@pytest.fixture
def plain(here):
    """A folder with a plain adapter, and a way to change its config."""
    save(Kind(), here / "mine")

    def change(**values: Any) -> None:
        file = here / "mine" / "adapter_config.json"
        config = {**json.loads(file.read_text()), **values}
        file.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))

    return change


def commands(name: str) -> Sequence[Sequence[str]]:
    return (
        ("inspect", name),
        ("generate", name, "--prompt", "hi"),
        ("merge", name, "--to", "out"),
        ("combine", name, "other", "--to", "out"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, "absent", "/gone/away"])
def test_a_base_that_is_not_named_or_gone_is_to_be_named(here, plain, refused, capsys, value):
    shutil.copytree(here / "mine", here / "other")
    plain(base_model_name_or_path=value)
    for command in commands("mine"):
        message = refused(*command)
        assert "--base PATH." in message
        assert ("/gone/away does not exist" if value == "/gone/away" else "mine does not name its base") in message
    assert not (here / "out").exists()
    main(["merge", "mine", "--to", "out", "--base", str(pretrained.folder_of(ModelConf(TINY)))])
    assert (here / "out" / "model.safetensors").is_file()


def test_a_matrix_that_has_grown_without_its_tokenizer(here, refused):
    save(KINDS["resized"], here / "mine")
    (here / "mine" / "tokenizer_config.json").unlink()
    message = refused("inspect", "mine")
    assert "it has 260 rows of model.embed_tokens and lm_head, but" in message
    assert "has 259. If tokens were added to the base, save the tokenizer that has them beside the adapter" in message


@pytest.mark.slow
def test_a_matrix_that_was_padded_beyond_the_tokens(here, refused):
    save(KINDS["resized"], here / "mine")
    adapted = trained(Kind())
    adapted.get_base_model().resize_token_embeddings(264, mean_resizing=False)
    adapted.save_pretrained(here / "mine", save_embedding_layers=True)
    assert "with <x> has 260. If" in (message := refused("merge", "mine", "--to", "out"))
    assert "one row for each token, without padding (pad_to_multiple_of)" in message


class TestFolders:
    @pytest.mark.slow
    def test_a_checkpoint_of_a_trainer(self, here, refused):
        rows = Dataset.from_dict({"input_ids": IDS.tolist(), "labels": IDS.tolist()})
        settings: dict[str, Any] = {"max_steps": 1, "save_steps": 1, "report_to": [], "use_cpu": True}
        adapted = trained(Kind())
        Trainer(adapted, TrainingArguments("out", disable_tqdm=True, **settings), train_dataset=rows).train()
        assert is_near(logits_of(here / "out" / "checkpoint-1"), logits(adapted.eval()))
        assert refused("inspect", "out").endswith(" It holds adapters. Name one: out/checkpoint-1.\n")

    @pytest.mark.slow
    def test_several_adapters_of_one_model(self, here, refused):
        adapted = trained(Kind())
        adapted.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        adapted.save_pretrained(here / "mine")
        assert is_near(logits_of(here / "mine"), logits(adapted))
        adapted.set_adapter("second")
        assert is_near(logits_of(here / "mine" / "second"), logits(adapted))
        (here / "mine" / "adapter_config.json").unlink()
        assert "It holds adapters. Name one: mine/second." in refused("merge", "mine", "--to", "out")


def test_they_are_not_compared_as_runs_are(here, plain, refused):
    shutil.copytree(here / "mine", here / "other")
    assert "For an adapter without a run use lowrung generate or lowrung inspect." in refused(
        "compare", "mine", "other"
    )
