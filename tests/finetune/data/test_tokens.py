import itertools

import pytest

from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Template


def learnt(row, tokenizer):
    """The text of each run of labels."""
    texts, run = [], []
    for label in [*row.labels, tokens.IGNORED]:
        if label != tokens.IGNORED:
            run.append(label)
        elif run:
            texts.append(tokenizer.decode(run))
            run = []
    return texts


def chat(contents, learnt):
    """The user and the assistant in turn, a letter each."""
    roles = itertools.cycle(("user", "assistant"))
    messages = tuple({"role": role, "content": content} for role, content in zip(roles, contents, strict=False))
    return Example(messages, learnt, is_chat=True)


def written(tokenizer, example):
    (row,) = tokens.tokenise(example, tokenizer, Template(tokenizer))
    return row


class TestChat:
    def test_the_completion_is_learnt_with_its_end(self, tokenizer):
        row = written(tokenizer, Example.pair("Hi?", "Hello."))
        assert (
            tokenizer.decode(row.input_ids)
            == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        )
        assert learnt(row, tokenizer) == ["Hello.<|im_end|>\n"]

    def test_every_turn_of_an_assistant_is_learnt(self, tokenizer):
        row = written(tokenizer, chat("abcd", learnt=(1, 3)))
        assert learnt(row, tokenizer) == ["b<|im_end|>\n", "d<|im_end|>\n"]

    def test_turns_of_the_prompt_are_not(self, tokenizer):
        row = written(tokenizer, chat("abcd", learnt=(3,)))
        assert learnt(row, tokenizer) == ["d<|im_end|>\n"]

    def test_what_follows_the_last_answer_is_left_out(self, tokenizer):
        row = written(tokenizer, chat("abc", learnt=(1,)))
        assert tokenizer.decode(row.input_ids).endswith("b<|im_end|>\n")


class TestPlain:
    def test_prompt_and_completion_follow_each_other(self, without_template):
        (row,) = tokens.tokenise(Example.pair("2+2=", "4"), without_template)
        assert without_template.decode(row.input_ids) == "2+2=\n4<|im_end|>"
        assert learnt(row, without_template) == ["4<|im_end|>"]

    @pytest.mark.parametrize(("prompt", "completion"), [("Q: ", "A"), ("Q:\n", "A"), ("Q:", " A")])
    def test_white_space_that_is_there_is_kept(self, tokenizer, prompt, completion):
        (row,) = tokens.tokenise(Example.pair(prompt, completion), tokenizer)
        assert tokenizer.decode(row.input_ids) == f"{prompt}{completion}<|im_end|>"
        asked = tokenizer(prompt)["input_ids"]
        assert row.input_ids[: len(asked)] == asked  # the very tokens with which the model will be asked

    def test_a_text_is_learnt_but_for_its_first_token(self, tokenizer):
        (row,) = tokens.tokenise(Example(text="Once"), tokenizer, Template(tokenizer))
        assert learnt(row, tokenizer) == ["nce<|im_end|>"]
