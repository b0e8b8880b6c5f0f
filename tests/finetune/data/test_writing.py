"""Examples as rows of tokens, and what is said of them."""

import copy

import pytest
from tokenizers import processors

from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Format
from lowrung.finetune.data.tokens import IGNORED
from lowrung.finetune.data.writing import Writer
from tests.finetune.data.templates import CHATML, DATED, STRIPS, THINKS


@pytest.fixture
def write(tokenizer, monkeypatch):
    """The text and the learnt texts of each row, the reasons of bad rows, and the notes."""

    def write(source, *examples, tokenizer=tokenizer, max_length=256):
        monkeypatch.setattr(tokenizer, "chat_template", source)
        writer = Writer(tokenizer, Format().template(tokenizer), max_length)
        rows, bad = writer.rows(examples)
        texts = [(tokenizer.decode(row.input_ids), learnt(row, tokenizer)) for row in rows]
        return texts, [row.reason for row in bad], list(writer.notes())

    return write


def learnt(row, tokenizer):
    kept = (id if label != IGNORED else None for id, label in zip(row.input_ids, row.labels, strict=True))
    texts, run = [], []
    for id in [*kept, None]:
        if id is not None:
            run.append(id)
        elif run:
            texts.append(tokenizer.decode(run))
            run = []
    return texts


@pytest.fixture(scope="module")
def with_bos(tokenizer):
    """A tokenizer that begins each text with ``<|im_start|>``, as Llama's do with their BOS."""
    other = copy.deepcopy(tokenizer)
    other.bos_token = "<|im_start|>"
    pieces = {"single": "<|im_start|> $A", "special_tokens": [("<|im_start|>", other.bos_token_id)]}
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(**pieces)
    return other


class TestBos:
    @pytest.mark.parametrize("written", ["", "<|im_start|>", "<|im_start|><|im_start|>"])
    @pytest.mark.parametrize("end", ["", "<|im_end|>"])
    def test_a_text_has_one_whoever_writes_it(self, write, with_bos, written, end):
        (row,), _, notes = write(CHATML, Example(text=f"{written}Once{end}"), tokenizer=with_bos)
        assert row == ("<|im_start|>Once<|im_end|>", ["Once<|im_end|>"])
        assert [note.split(":")[0] for note in notes] == (["1 of 1 examples"] if written else [])

    def test_a_pair_has_one(self, write, with_bos):
        (row,), _, _ = write(None, Example.pair("<|im_start|>2+2=", "4<|im_end|>"), tokenizer=with_bos)
        assert row == ("<|im_start|>2+2=\n4<|im_end|>", ["4<|im_end|>"])

    @pytest.mark.parametrize(("begin", "text"), [("{{ bos_token }}", "<|im_start|>user: a"), ("", "user: a")])
    def test_a_chat_has_those_of_its_template(self, write, with_bos, begin, text):
        (row,), _, _ = write(begin + CHATML, Example.pair("a", "b"), tokenizer=with_bos)
        assert row[0].startswith(text)


class TestAnswers:
    def chat(self, learnt):
        thought = {"role": "assistant", "content": "b", "reasoning_content": "since"}
        messages = ({"role": "user", "content": "a"}, thought, {"role": "user", "content": "c"})
        return Example((*messages, {**thought, "content": "d"}), learnt, is_chat=True)

    def test_each_has_its_row_where_the_template_writes_earlier_ones_otherwise(self, write):
        rows, bad, (note,) = write(THINKS, self.chat((1, 3)))
        assert [answers for _, answers in rows] == [
            ["<think>\nsince\n</think>\nb\n"],
            ["<think>\nsince\n</think>\nd\n"],
        ]
        assert rows[1][0].startswith("user: a\nassistant: b\nuser: c\nassistant: <think>")
        assert bad == []
        assert "each answer became a row of its own" in note

    def test_one_alone_is_one_row(self, write):
        rows, _, (note,) = write(THINKS, self.chat((3,)))
        assert [answers for _, answers in rows] == [["<think>\nsince\n</think>\nd\n"]]
        assert note == (
            "1 of 1 examples: the chat template leaves out reasoning_content of assistant messages that are not learnt"
            " (data.chat_template_kwargs={keep_thinking:true} keeps it)"
        )

    def test_what_is_lost_is_no_row(self, write):
        rows, (reason,), _ = write(STRIPS, Example.pair("15?", "<think>so</think>16"))
        assert rows == []
        assert reason.startswith("the chat template leaves out of messages[1]")

    def test_an_answer_that_is_opened_otherwise_is_told(self, write):
        (row,), _, (note,) = write(STRIPS, Example.pair("15?", "16"))
        assert row[1] == ["16\n"]
        assert "opens an answer otherwise than it writes one" in note


def test_a_template_that_asks_for_the_date_is_told_once(write):
    _, _, notes = write(DATED, Example.pair("a", "b"), Example.pair("c", "d"))
    assert notes == ["the chat template asks for the date: in all examples it is data.date=2026-01-01"]


def test_a_row_without_room_is_bad(write):
    rows, (reason,), _ = write(CHATML, Example.pair("a" * 40, "b"), Example.pair("c", "d"), max_length=30)
    assert len(rows) == 1
    assert reason.startswith("data.max_length must leave room for what is learnt, but is 30, and the prompt takes 58")


def test_tools_without_a_template_are_told(write):
    pair = Example.pair("a", "b")
    _, _, notes = write(None, Example(pair.messages, pair.learnt, tools=[{"name": "stock"}]))
    assert notes == ["1 of 1 examples: tools are not written without a chat template"]
