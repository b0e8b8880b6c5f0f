"""Templates that end turns in all the ways that they do, on a tokenizer of bytes."""

import dataclasses

import pytest
from datasets import Dataset

from lowrung.finetune.data import taught, tokens
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import Template
from lowrung.finetune.models import pretrained
from lowrung.finetune.models.ends import Ends

TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'Q: ' + m.content + '\n' }}"
    "{% else %}{{ 'A: ' + m.content + END }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'A: ' }}{% endif %}"
)
ADDED = ["<end>", "<more>", "\n\n"]


@pytest.fixture(scope="module")
def tokenizer():
    """Its end of text is 256; ``ADDED`` are 259 and what follows, as in Gemma's, which has tokens for white space."""
    loaded = pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))
    loaded.add_tokens(ADDED)
    return loaded


END, MORE = 259, 260


def ending(tokenizer, end, before=""):
    tokenizer.chat_template = before + TURNS.replace("END", repr(end))
    return tokenizer


def learnt(tokenizer, *answers, is_chat=True, system=None):
    """Training examples with these answers."""
    before = [{"role": "system", "content": system}] if system else []
    template = Template(tokenizer) if is_chat else None
    rows = []
    for answer in answers:
        pair = Example.pair("?", answer)
        example = dataclasses.replace(pair, messages=(*before, *pair.messages), learnt=(len(before) + 1,))
        rows += [vars(row) for row in tokens.tokenise(example, tokenizer, template)]
    return Dataset.from_list(rows)


@pytest.mark.parametrize(
    ("end", "ends"),
    [
        ("<|im_end|>\n", Ends((256,))),
        ("<end>\n", Ends((END, 256))),
        (" ###<end>\n<|im_end|>", Ends((END, 256))),
        ("</s>\n", Ends((256,), "</s>\n")),
        ("\n### End", Ends((256,), "\n### End")),
        ("\n", Ends((256,), "\n")),
        ("\n\n", Ends((256,), "\n\n")),
        ("", Ends((256,))),
    ],
)
def test_what_the_template_writes_after_an_answer_ends_it(tokenizer, end, ends):
    found = taught.taught(
        ending(tokenizer, end), Template(tokenizer), listed=(), rows=learnt(tokenizer, "one, two.", "three.")
    )
    assert found.ends == ends
    assert found.is_shown == bool(end)
    assert [note[:39] for note in found.notes(tokenizer)] == (
        [] if end else ["the chat template writes nothing after "]
    )


@pytest.mark.parametrize("end", ["\n", "\n\n"])
def test_white_space_that_answers_hold_or_that_nobody_has_seen_ends_none(tokenizer, end):
    ending(tokenizer, end)
    many = learnt(tokenizer, "one", f"one{end}two")
    found = taught.taught(tokenizer, Template(tokenizer), listed=(), rows=many)
    assert (found.ends, found.is_shown) == (Ends((256,)), False)
    assert f"writes only {end!r} after an answer" in next(found.notes(tokenizer))
    assert not taught.taught(tokenizer, Template(tokenizer), listed=(), rows=None).is_shown


def test_without_a_template_answers_end_with_the_text(tokenizer):
    ending(tokenizer, "<end>")
    found = taught.taught(tokenizer, None, listed=(MORE,), rows=learnt(tokenizer, "one", is_chat=False))
    assert (found.ends, found.is_shown) == (Ends((256, MORE)), True)


def test_what_the_base_names_is_an_end_unless_answers_hold_it(tokenizer):
    ending(tokenizer, "<end>\n")
    at_the_end = learnt(tokenizer, "one", "a call<more>")
    assert taught.taught(tokenizer, Template(tokenizer), listed=(256, MORE), rows=at_the_end).ends == Ends(
        (END, 256, MORE)
    )
    found = taught.taught(tokenizer, Template(tokenizer), listed=(256, MORE), rows=learnt(tokenizer, "one", "a<more>b"))
    assert (found.ends, found.ignored) == (Ends((END, 256)), (MORE,))
    (note,) = found.notes(tokenizer)
    assert note.startswith("answers of the training examples hold <more>, so that ends no answer")


def test_an_end_that_an_answer_quotes_is_still_one(tokenizer):
    ending(tokenizer, "<end>")
    rows = learnt(tokenizer, "a<end>b", "c")
    assert taught.taught(tokenizer, Template(tokenizer), listed=(END,), rows=rows).ends == Ends((END, 256))


def test_a_template_that_takes_no_mere_question_is_read_from_the_rows(tokenizer):
    refusing = "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}"
    ending(tokenizer, "<end>\n", before=refusing)
    rows = learnt(tokenizer, "one", "two", "a long one that was cut", system="s")
    rows = Dataset.from_list([{name: ids[:30] for name, ids in row.items()} for row in rows])
    assert taught.taught(tokenizer, Template(tokenizer), listed=(), rows=rows).ends == Ends((END, 256))
    assert taught.taught(tokenizer, Template(tokenizer), listed=(), rows=None).ends == Ends((256,))
