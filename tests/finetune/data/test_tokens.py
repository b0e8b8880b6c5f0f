import pytest

from lowrung.finetune.data import tokens
from lowrung.finetune.data.examples import Example


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


class TestChat:
    def test_the_completion_is_learnt_with_its_end(self, tokenizer):
        row = tokens.tokenise(Example.pair("Hi?", "Hello."), tokenizer, chat=True)
        assert (
            tokenizer.decode(row.input_ids)
            == "<|im_start|>user\nHi?<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        )
        assert learnt(row, tokenizer) == ["Hello.<|im_end|>\n"]

    def test_every_turn_of_an_assistant_is_learnt(self, tokenizer):
        messages = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
        row = tokens.tokenise(Example(messages, is_chat=True), tokenizer, chat=True)
        assert learnt(row, tokenizer) == ["b<|im_end|>\n", "d<|im_end|>\n"]

    def test_turns_of_the_prompt_are_not(self, tokenizer):
        messages = (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
        row = tokens.tokenise(Example(messages, learnt_from=3, is_chat=True), tokenizer, chat=True)
        assert learnt(row, tokenizer) == ["d<|im_end|>\n"]

    def test_what_follows_the_last_answer_is_left_out(self, tokenizer):
        messages = (("user", "a"), ("assistant", "b"), ("user", "c"))
        row = tokens.tokenise(Example(messages, is_chat=True), tokenizer, chat=True)
        assert tokenizer.decode(row.input_ids).endswith("b<|im_end|>\n")


class TestPlain:
    def test_prompt_and_completion_follow_each_other(self, without_template):
        row = tokens.tokenise(Example.pair("2+2=", "4"), without_template, chat=False)
        assert without_template.decode(row.input_ids) == "2+2=\n4<|im_end|>"
        assert learnt(row, without_template) == ["4<|im_end|>"]

    @pytest.mark.parametrize(("prompt", "completion"), [("Q: ", "A"), ("Q:\n", "A"), ("Q:", " A")])
    def test_white_space_that_is_there_is_kept(self, tokenizer, prompt, completion):
        row = tokens.tokenise(Example.pair(prompt, completion), tokenizer, chat=False)
        assert tokenizer.decode(row.input_ids) == f"{prompt}{completion}<|im_end|>"
        asked = tokenizer(prompt)["input_ids"]
        assert row.input_ids[: len(asked)] == asked  # the very tokens with which the model will be asked

    def test_a_text_is_learnt_but_for_its_first_token(self, tokenizer):
        row = tokens.tokenise(Example(text="Once"), tokenizer, chat=True)
        assert learnt(row, tokenizer) == ["nce<|im_end|>"]
