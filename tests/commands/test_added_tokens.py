"""The commands on adapters that add tokens to their base: in a run, and by themselves."""

import shutil
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lowrung.__main__ import main
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained
from lowrung.store import layout
from tests import training
from tests.commands.conftest import record

TOKENS = ["Write", "<think>"]
PROMPT = "Write 47 in words."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and its metrics."""
    folder = tmp_path_factory.mktemp("added") / "ef56"
    base = ModelConf("embedded:tiny", added_tokens=TOKENS)
    return folder, training.fine_tune(folder, base=base, max_steps=3)[0].metrics


@pytest.fixture
def run(here, trained):
    """The run ef56 in the store, and a copy of its adapter by itself."""
    found = layout.run_folder(here / "runs", "ef56")
    shutil.copytree(trained[0] / "adapter", found.adapter)
    record(found, {"r": 4, "alpha": 8.0}, trained[1], added_tokens=TOKENS)
    shutil.copytree(found.adapter, here / "alone")
    return found


def answers(printed):
    """The answer of each to one prompt; an answer may hold any character."""
    return dict(line.split(": ", 1) for line in printed.removesuffix("\n").split("\n  ")[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ef56", "alone"])
def test_inspect_tells_them(run, capsys, name):
    main(["inspect", name])
    assert "adds        Write, <think>\n" in capsys.readouterr().out


@pytest.mark.slow
def test_generate_asks_such_adapters_beside_others(run, capsys):
    main(["generate", "ef56", "ab12", "alone", "--with-base", "--prompt", PROMPT, "--new-tokens", "8"])
    output = answers(capsys.readouterr().out)
    assert output.keys() == {"ef56", "ab12", "alone", "base"}
    main(["generate", "ab12", "--with-base", "--prompt", PROMPT, "--new-tokens", "8"])
    again = answers(capsys.readouterr().out)
    assert again == {name: output[name] for name in ("ab12", "base")}
    model = AutoPeftModelForCausalLM.from_pretrained(str(run.adapter)).eval()
    tokenizer: Any = pretrained.load_tokenizer(run.adapter)
    prompt = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(prompt, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    assert 259 in ids["input_ids"]
    given = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    expected = tokenizer.decode(given, skip_special_tokens=True).strip()
    assert output["ef56"] == output["alone"] == expected


@pytest.mark.slow
def test_generate_asks_adapters_with_trained_tokens_beside_those_without(here, capsys):
    """PEFT cannot hold both in one model."""
    training.fine_tune(here / "words", lora={"trainable_token_indices": [1, 2]}, max_steps=1)
    output = []
    for names in (["ab12"], ["words/adapter"], ["ab12", "words/adapter"], ["words/adapter", "ab12"]):
        main(["generate", *names, "--prompt", PROMPT, "--new-tokens", "8"])
        output.append(answers(capsys.readouterr().out))
    assert output[2] == output[3] == output[0] | output[1]
    assert len(output[2]) == 2


@pytest.mark.parametrize("name", ["ef56", "alone"])
def test_merge_gives_a_model_with_their_rows_and_a_card_that_names_them(run, here, name):
    main(["merge", name, "--to", "merged", "--dtype", "float32"])
    assert "| added tokens | `Write`, `<think>` |\n" in (here / "merged" / "README.md").read_text()
    merged = AutoModelForCausalLM.from_pretrained(here / "merged").eval()
    adapter = AutoPeftModelForCausalLM.from_pretrained(str(run.adapter)).eval()
    ids = torch.tensor([[259, 5, 260, 6]])
    with torch.no_grad():
        assert torch.allclose(merged(input_ids=ids).logits, adapter(input_ids=ids).logits, atol=1e-4)
    assert pretrained.load_tokenizer(here / "merged").convert_tokens_to_ids("<think>") == 260


def test_the_base_may_be_named_without_them(run, here, capsys):
    main(["merge", "ef56", "--to", "merged", "--base", str(pretrained.folder_of(ModelConf("embedded:tiny")))])
    assert AutoModelForCausalLM.from_pretrained(here / "merged").config.vocab_size == 261


def test_rows_that_are_not_in_the_file_are_missed(run, here, refused):
    file = here / "alone" / "adapter_model.safetensors"
    kept = {name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}
    save_file(kept, file)
    assert "needs tensors that the file lacks: lm_head.token_adapter" in refused("merge", "alone", "--to", "merged")
    assert not (here / "merged").exists()


@pytest.mark.slow
def test_combine_adds_their_rows_too(run, here, capsys):
    main(["combine", "ef56", "alone", "--to", "both", "--method", "cat", "--weights", "0.5", "0.5"])
    table = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[3:]}
    assert table["combined"] == pytest.approx(table["ef56"], abs=1e-4)  # half of it twice
    assert table["base"] > table["ef56"]
    ids = torch.tensor([[259, 5, 260, 6]])
    with torch.no_grad():
        part, both = (
            AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()(input_ids=ids).logits
            for folder in (run.adapter, here / "both")
        )
    assert torch.allclose(part, both, atol=1e-4)
    main(["merge", "both", "--to", "merged", "--dtype", "float32"])
    assert AutoModelForCausalLM.from_pretrained(here / "merged").config.vocab_size == 261


def test_such_as_add_other_tokens_are_not_combined(run, here, refused):
    message = refused("combine", "ef56", "ab12", "--to", "both")
    base = pretrained.folder_of(ModelConf("embedded:tiny"))
    assert "must add the same tokens in the same order" in message
    assert f"ef56 has {base}; added tokens Write, <think>, ab12 has {base}. Train them with" in message
    assert not (here / "both").exists()
