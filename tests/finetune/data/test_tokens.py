import pytest

from lowrung.errors import UsageError
from lowrung.finetune.data import tokens
from lowrung.finetune.data.corpus import Corpus
from lowrung.finetune.data.examples import Example
from lowrung.finetune.models import pretrained


@pytest.fixture(scope="module")
def tokenizer():
    return pretrained.load_tokenizer(pretrained.locate("embedded:tiny"))


@pytest.fixture
def without_template(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    return tokenizer


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

    def test_a_template_that_rewrites_earlier_turns_is_refused(self, tokenizer, monkeypatch, tmp_path):
        only_last = "{% for m in messages %}{{ m['content'] if loop.last else '' }}{% endfor %}"
        monkeypatch.setattr(tokenizer, "chat_template", only_last)
        chat = Example((("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), is_chat=True)
        with pytest.raises(UsageError, match="writes earlier turns otherwise once another follows"):
            prepare(tokenizer, tmp_path, train=[chat])

    def test_a_template_that_refuses_a_role_is_quoted(self, tokenizer, monkeypatch, tmp_path):
        monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('System role not supported') }}")
        with pytest.raises(UsageError, match="refuses 'row 0': System role not supported"):
            prepare(tokenizer, tmp_path)


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


def corpus(train, held_out=None):
    return Corpus("file", "a file", train, held_out or [Example.pair("held", "out")])


def prepare(tokenizer, folder, *, train=None, max_length=64, format="auto"):
    examples = train or [Example.pair(f"row {n}", "answer " * (n + 1)) for n in range(4)]
    return tokens.prepare(corpus(examples), tokenizer, max_length=max_length, format=format, folder=folder / "tokens")


def test_what_was_prepared_is_opened_again(tokenizer, tmp_path):
    first = prepare(tokenizer, tmp_path)
    inode = (tmp_path / "tokens" / "facts.json").stat().st_ino
    again = prepare(tokenizer, tmp_path)
    assert (tmp_path / "tokens" / "facts.json").stat().st_ino == inode
    assert again.train[:] == first.train[:]
    assert again.train.cache_files  # mapped from the disk, not read
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["tokens"]


def test_truncation_is_counted(tokenizer, tmp_path):
    prepared = prepare(tokenizer, tmp_path, max_length=48)
    lengths = [len(row["input_ids"]) for row in prepared.train]
    assert max(lengths) == 48
    assert prepared.truncated == lengths.count(48) > 0
    (note,) = prepared.notes
    assert note.startswith(f"{prepared.truncated} of 4 training examples are longer than data.max_length")


def test_nothing_is_said_where_nothing_is_cut(tokenizer, tmp_path):
    assert prepare(tokenizer, tmp_path, max_length=512).notes == ()


def test_prompts_that_leave_no_room_are_named(tokenizer, tmp_path):
    train = [Example.pair("x" * 100, "y") for _ in range(5)]
    with pytest.raises(UsageError) as caught:
        prepare(tokenizer, tmp_path, train=train)
    assert caught.value.problems[0] == (
        "data.max_length must leave room for what is learnt, but is 64, and the prompt of"
        f" '{'x' * 47}...' takes 119 tokens. Raise it, or leave that one out."
    )
    assert caught.value.problems[-1] == "2 more examples have such problems."
    assert not (tmp_path / "tokens").exists()


@pytest.mark.parametrize(
    ("format", "example", "message"),
    [
        ("auto", Example((("user", "a"), ("assistant", "b")), is_chat=True), "since the data holds messages"),
        ("chat", Example.pair("a", "b"), "since data.format is chat"),
    ],
)
def test_a_tokenizer_without_a_template_is_refused_where_one_is_needed(without_template, format, example, message):
    (problem,) = tokens.problems(corpus([example]), without_template, format)
    assert "must have a tokenizer with a chat template" in problem
    assert message in problem


def test_messages_cannot_be_written_plainly(tokenizer):
    chat = Example((("user", "a"), ("assistant", "b")), is_chat=True)
    (problem,) = tokens.problems(corpus([chat]), tokenizer, "plain")
    assert problem.startswith("data.format=plain cannot tell who says what")


def test_pairs_need_no_template(without_template):
    assert tokens.problems(corpus([Example.pair("a", "b")]), without_template, "auto") == []
