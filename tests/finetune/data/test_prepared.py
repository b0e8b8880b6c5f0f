import pytest

from lowrung.config.schema import DataConf
from lowrung.errors import UsageError
from lowrung.finetune.data import prepared
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.examples import Example


def corpus(train, held_out=None):
    return Corpus("file", "a file", train, held_out or [Example.pair("held", "out")])


CHAT = Example(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}), (1,), is_chat=True)


def data(**changed):
    return DataConf(**{"name": "file", "max_length": 64, **changed})


def prepare(tokenizer, folder, *, train=None, **changed):
    examples = train or [Example.pair(f"row {n}", "answer " * (n + 1)) for n in range(4)]
    return prepared.prepare(corpus(examples), tokenizer, data(**changed), folder / "tokens")


def test_a_prepared_folder_is_opened_again(tokenizer, tmp_path):
    first = prepare(tokenizer, tmp_path)
    inode = (tmp_path / "tokens" / "facts.json").stat().st_ino
    again = prepare(tokenizer, tmp_path)
    assert (tmp_path / "tokens" / "facts.json").stat().st_ino == inode
    assert again.train[:] == first.train[:]
    assert again.train.cache_files  # mapped from the disk, not read
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["tokens"]


def test_truncation_is_counted(tokenizer, tmp_path):
    rows = prepare(tokenizer, tmp_path, max_length=48)
    lengths = [len(row["input_ids"]) for row in rows.train]
    assert max(lengths) == 48
    assert rows.truncated == lengths.count(48) > 0
    (note,) = rows.notes
    assert note.startswith(f"{rows.truncated} of 4 training examples are longer than data.max_length")


def test_held_out_examples_that_are_scored_without_their_end_are_counted(tokenizer, tmp_path):
    held_out = [Example.pair("held", answer) for answer in ("out", "answer " * 9, "answer " * 8)]
    rows = prepared.prepare(corpus([Example.pair("a", "b")], held_out), tokenizer, data(), tmp_path / "tokens")
    (note,) = rows.notes
    assert note.startswith("2 of 3 held-out examples are longer than data.max_length and were cut")


def test_without_a_cut_there_is_no_note(tokenizer, tmp_path):
    assert prepare(tokenizer, tmp_path, max_length=512).notes == ()


def test_prompts_that_leave_no_room_are_named(tokenizer, tmp_path):
    train = [Example.pair("x" * 100, "y") for _ in range(5)]
    with pytest.raises(UsageError) as caught:
        prepare(tokenizer, tmp_path, train=train)
    assert caught.value.problems[0] == (
        f"'{'x' * 47}...': data.max_length must leave room for what is learnt, but is 64, and the prompt takes 119"
        " tokens. Raise it, or leave that example out."
    )
    assert caught.value.problems[-1] == "2 more rows like these. data.on_bad_rows=drop leaves them out."
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("format", "example", "message"),
    [
        ("auto", CHAT, "since the data holds messages"),
        ("chat", Example.pair("a", "b"), "since data.format is chat"),
    ],
)
def test_a_tokenizer_without_a_template_is_refused_where_one_is_needed(without_template, format, example, message):
    (problem,) = prepared.problems(corpus([example]), without_template, data(format=format))
    assert "must have a tokenizer with a chat template" in problem
    assert message in problem


def test_messages_cannot_be_written_plainly(tokenizer):
    (problem,) = prepared.problems(corpus([CHAT]), tokenizer, data(format="plain"))
    assert problem.startswith("data.format=plain cannot write roles")


def test_pairs_need_no_template(without_template):
    assert prepared.problems(corpus([Example.pair("a", "b")]), without_template, data()) == []


def test_a_template_that_refuses_a_role_is_quoted(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('System role not supported') }}")
    with pytest.raises(UsageError, match="row 0': the chat template refuses it: System role not supported"):
        prepare(tokenizer, tmp_path)
