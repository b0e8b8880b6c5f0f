"""`lowrung generate` on adapters that were trained for some steps: what they say matters less than who says it."""

from typing import Any

import pytest
import torch
from peft import PeftModel

from lowrung.__main__ import main
from lowrung.config.schema import ModelConf
from lowrung.finetune.lora import merge
from lowrung.finetune.models import generate, pretrained
from lowrung.finetune.models.ends import Ends

PROMPT = "Write 47 in words."


def alone(model, folder, prompt):
    """What a model says, asked without lowrung's own way to write a prompt down."""
    tokenizer: Any = pretrained.load_tokenizer(folder)
    messages = [{"role": "user", "content": prompt}]
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    ends = Ends((tokenizer.eos_token_id,))
    (given,) = generate.greedy(model, tokenizer, [ids["input_ids"]], ends=ends, new_tokens=8)
    return tokenizer.decode(given, skip_special_tokens=True).strip()


def tiny():
    return pretrained.load_base(ModelConf("embedded:tiny"), torch.device("cpu"))


@pytest.fixture
def separate(here):
    """The answers of each adapter, loaded alone by PEFT, and of the base."""
    folders = {name: here / "runs" / name / "adapter" for name in ("ab12", "cd34")}
    output = {
        name: alone(PeftModel.from_pretrained(tiny(), str(folder)).eval(), folder, PROMPT)
        for name, folder in folders.items()
    }
    return output | {"base": alone(tiny(), folders["ab12"], PROMPT)}


@pytest.mark.slow
def test_adapters_side_by_side_say_what_each_says_alone(here, separate, capsys):
    main(["generate", "mine/0", "mine/1", "--with-base", "--prompt", PROMPT, "--prompt", "And 8?", "--new-tokens", "8"])
    printed = capsys.readouterr().out
    first, second = printed.split("\n\n")
    assert len({*separate.values()}) == 3
    assert first == "\n".join(
        [
            PROMPT,
            f"  mine/0: {separate['ab12']}",
            f"  mine/1: {separate['cd34']}",
            f"  base: {separate['base']}",
        ]
    )
    assert second.startswith("And 8?\n  mine/0: ")


@pytest.mark.slow
def test_a_merged_model_and_a_base_are_asked_by_themselves(here, adapter, separate, capsys):
    merged = merge.merge(PeftModel.from_pretrained(tiny(), str(adapter)))
    merge.save(merged, pretrained.load_tokenizer(adapter), here / "merged", torch.float32)
    main(["generate", "merged", "--prompt", PROMPT, "--new-tokens", "8"])
    assert capsys.readouterr().out == f"{PROMPT}\n  merged: {separate['ab12']}\n"
    main(["generate", "--base", "embedded:tiny", "--prompt", PROMPT, "--new-tokens", "8"])
    assert capsys.readouterr().out == f"{PROMPT}\n  embedded:tiny: {separate['base']}\n"


def test_bad_arguments_are_refused_together(here, refused):
    message = refused("generate", "--prompt", " ", "--new-tokens", "0")
    assert message.startswith("3 errors:")
    assert "generate needs a model" in message


def test_all_unknown_names_are_refused(here, refused):
    message = refused("generate", "mine/7", "nobody", "--prompt", PROMPT)
    assert message.startswith("2 errors:")


def test_an_adapter_of_another_base_is_refused(here, refused):
    message = refused("generate", "mine/0", "--base", "embedded:tiny_gpt2", "--prompt", PROMPT)
    assert "it must fit its base" in message
