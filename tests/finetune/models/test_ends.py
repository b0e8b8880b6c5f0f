"""Ends of answers as texts are cut at them, and as files say where they are."""

import json
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from lowrung.finetune.models import ends, pretrained
from lowrung.finetune.models.ends import Ends


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))


@pytest.mark.parametrize(
    ("end", "written", "text"),
    [
        (Ends((256,)), "yes<|im_end|>\n", "yes"),
        (Ends((258, 256)), "yes<|im_start|>\n", "yes"),
        (Ends((256,), "\n### End"), "yes\n###\n### End", "yes\n###"),
        (Ends((256,), "</s>"), "yes</s", "yes</s"),
        (Ends(), " yes\n", "yes"),
    ],
)
def test_the_end_is_no_part_of_the_answer(tokenizer, end, written, text):
    ids = tokenizer(written)["input_ids"]
    assert end.answer(tokenizer, ids) == end.reference(tokenizer, ids) == text


def test_a_generated_answer_ends_at_the_first_end_and_a_rows_own_at_the_last(tokenizer):
    quoting = tokenizer("say <|im_end|>, please<|im_end|>\n")["input_ids"]
    assert Ends((256,)).answer(tokenizer, quoting) == "say"
    assert Ends((256,)).reference(tokenizer, quoting) == "say , please"
    quoting = tokenizer("a | b|")["input_ids"]
    assert (Ends((), "|").answer(tokenizer, quoting), Ends((), "|").reference(tokenizer, quoting)) == ("a", "a | b")


def test_a_text_ends_an_answer_as_soon_as_it_is_whole(tokenizer):
    texts = ("it was long before \n### En", "it was as long as \n### End")
    so_far = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
    assert Ends((), "\n### End").reached(tokenizer, so_far).tolist() == [False, True]


def test_a_file_keeps_what_it_says_besides(tmp_path):
    """Strict saving refuses a temperature without sampling, which many bases have."""
    base = {"eos_token_id": 7, "temperature": 0.6, "do_sample": False, "of_another": [1]}
    (tmp_path / ends.FILE).write_text(json.dumps(base))
    Ends((3, 7), "|").write(tmp_path)
    config: Any = GenerationConfig.from_pretrained(tmp_path)
    assert (config.eos_token_id, config.temperature, config.of_another) == ([3, 7], 0.6, [1])
    assert (Ends.read(tmp_path), ends.listed(tmp_path)) == (Ends((3, 7), "|"), (3, 7))


def test_what_others_have_written_is_no_record(tmp_path):
    assert Ends.read(tmp_path) is None
    for text in ('{"eos_token_id": 3}', "[]", "{"):
        (tmp_path / ends.FILE).write_text(text)
        assert Ends.read(tmp_path) is None


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ('{"eos_token_id": [1, 2, 1]}', (1, 2)),
        ('{"eos_token_id": null}', ()),
        ('{"eos_token_id": "x", "unknown": {}}', ()),
        ('{"eos_token_id": [true, null, 4]}', (4,)),
        ("{", (256,)),
        (None, (256,)),
    ],
)
def test_what_a_base_names_as_its_ends(tmp_path, written, listed):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "text_config": {"eos_token_id": 256}}')
    if written:
        (tmp_path / ends.FILE).write_text(written)
    assert ends.listed(tmp_path) == listed
