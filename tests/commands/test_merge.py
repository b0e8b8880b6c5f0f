"""`lowrung merge` on adapters that were trained."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from lowrung.__main__ import main
from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained
from tests.commands.conftest import change_config

IDS = torch.tensor([[5, 6, 7, 8, 9]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(adapter):
    base = pretrained.load_base(ModelConf("embedded:tiny"), torch.device("cpu"))
    return PeftModel.from_pretrained(base, str(adapter)).eval()


@pytest.mark.slow
def test_the_merged_folder_serves_by_itself_and_says_what_it_is(here, adapter, capsys):
    main(["merge", "mine/0", "--to", "models/merged"])
    merged = here / "models" / "merged"
    model = AutoModelForCausalLM.from_pretrained(merged).eval()
    assert torch.allclose(logits(model), logits(adapted(adapter)), atol=1e-4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(adapter).chat_template
    assert GenerationConfig.from_pretrained(merged).eos_token_id is not None
    assert not [*merged.glob("*.bin")]
    assert {path.name for path in merged.parent.iterdir()} == {"merged"}
    printed = capsys.readouterr().out
    assert f"merged:    {merged} (float32)\n" in printed
    assert "on 8 held-out examples: max |Δlogit|" in printed


@pytest.mark.slow
def test_the_card_states_base_data_config_metrics_and_the_gate(here):
    main(["merge", "mine/0", "--to", "merged"])
    card = (here / "merged" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "| model | embedded:tiny |",
        "| which is | a Llama of 2 layers with random weights |",
        "| run | ab12 |",
        "| rank | 4 |",
        "| end with | `<\\|im_end\\|>` |",
        "| name | number_words |",
        "| batch_size | 1 |",
        "The merged-vs-adapter gate after training: passed.",
    ):
        assert f"{line}\n" in card, line
    assert "| eval/loss | " in card
    assert "This folder was reloaded from the disk and compared with the adapter" in card


@pytest.mark.slow
def test_an_adapter_by_itself_is_merged_too_and_rounded_once(here, adapter, capsys):
    shutil.copytree(adapter, here / "elsewhere")
    (here / "merged").mkdir()
    main(["merge", "elsewhere", "--to", "merged", "--dtype", "bfloat16"])
    assert "on 4 texts: max |Δlogit|" in capsys.readouterr().out
    once = {name: p.to(torch.bfloat16) for name, p in adapted(adapter).merge_and_unload().named_parameters()}
    model = AutoModelForCausalLM.from_pretrained(here / "merged", dtype="auto")
    assert all(torch.equal(parameter, once[name]) for name, parameter in model.named_parameters())


@pytest.mark.slow
def test_what_the_gate_looked_at_is_what_is_saved(here, capsys):
    change_config(here, "ab12", "verify", merge_dtype="bfloat16")
    main(["merge", "mine/0", "--to", "merged"])
    assert f"merged:    {here / 'merged'} (bfloat16)\n" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(here / "merged", dtype="auto")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
def test_an_adapter_by_itself_is_saved_in_the_default_precision(here, adapter, capsys):
    shutil.copytree(adapter, here / "elsewhere")
    main(["merge", "elsewhere", "--to", "merged"])
    assert f"merged:    {here / 'merged'} (float16)\n" in capsys.readouterr().out


class TestRefused:
    def test_a_folder_that_is_not_empty(self, here, refused):
        (here / "full").mkdir()
        (here / "full" / "file").write_text("mine")
        assert f"{here / 'full'} is not. Name another." in refused("merge", "mine/0", "--to", "full")
        assert [path.name for path in (here / "full").iterdir()] == ["file"]

    def test_a_place_where_nothing_can_be_written(self, here, refused):
        (here / "file").write_text("mine")
        assert "--to must be where files can be written" in refused("merge", "mine/0", "--to", "file/merged")

    def test_a_disk_without_room(self, here, refused, monkeypatch):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        message = refused("merge", "mine/0", "--to", "merged")
        assert re.search(r"--to must be on a disk with [0-9.]+ kB free, but .* has 1[.]00 kB[.]", message)
        assert not (here / "merged").exists()

    def test_another_base_and_a_whole_model(self, here, refused, adapter):
        assert "it must fit its base" in refused("merge", "mine/0", "--to", "m", "--base", "embedded:tiny_gpt2")
        base = pretrained.folder_of(ModelConf("embedded:tiny"))
        assert "is a whole model: it holds no adapter." in refused("merge", base, "--to", "m")
        assert not (here / "m").exists()

    def test_a_damaged_file(self, here, refused, adapter):
        file = adapter / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        assert "damaged or was cut off" in refused("merge", "mine/0", "--to", "m")
        assert not (here / "m").exists()


@pytest.mark.slow
def test_a_merge_that_is_not_the_adapter_is_not_kept(here, adapter, capsys):
    """An effect that bfloat16 cannot hold: less than half a unit in the last place of the base's weights."""
    file = adapter / "adapter_model.safetensors"
    weak = {name: tensor * (1e-5 if "lora_B" in name else 1) for name, tensor in load_file(file).items()}
    save_file(weak, file)
    with pytest.raises(SystemExit) as ended:
        main(["merge", "mine/0", "--to", "merged", "--dtype", "bfloat16"])
    assert ended.value.code == 1
    output = capsys.readouterr().err
    assert "The merged model must agree with the adapter, but does not, and was not kept: " in output
    assert "keep the adapter unmerged, or take --dtype float16 (a finer grid) or --dtype float32." in output
    assert not (here / "merged").exists()
