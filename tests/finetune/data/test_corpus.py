import subprocess
import sys
from collections import Counter

import pytest

from lowrung.errors import UsageError
from lowrung.finetune.data.corpus import _shares
from tests.sources import load, pairs, source, write_rows

EMBEDDED = pytest.mark.parametrize("name", ["docstrings", "number_words"])


def prompts(examples):
    return [example.messages[0]["content"] for example in examples]


@pytest.mark.slow
@EMBEDDED
def test_train_and_eval_share_nothing(name):
    corpus = load(name=name, train_size=500, eval_size=100)
    train, held_out = (set(prompts(examples)) for examples in (corpus.train, corpus.eval))
    assert (len(train), len(held_out)) == (500, 100)
    assert not train & held_out


@EMBEDDED
@pytest.mark.slow
def test_the_seed_draws_the_examples(name):
    def fingerprint(seed):
        return load(name=name, train_size=50, eval_size=10, seed=seed).fingerprint

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)


@EMBEDDED
@pytest.mark.slow
def test_held_out_rows_do_not_depend_on_the_training_size(name):
    few, many = (load(name=name, train_size=size, eval_size=20) for size in (10, 100))
    assert few.eval == many.eval


@pytest.mark.slow
def test_docstrings_are_the_same_whatever_else_was_imported():
    """torch replaces inspect.getfile, transformers adds to logging.Logger, pytest sets sys.unraisablehook."""
    code = "from tests.sources import load;print(load(name='docstrings', train_size=2000, eval_size=9).fingerprint)"
    import trl  # noqa: F401

    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=with_src())
    assert fresh.stdout.strip() == load(name="docstrings", train_size=2000, eval_size=9).fingerprint


def with_src():
    import os

    from lowrung.store.layout import ROOT

    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}


@pytest.mark.slow
def test_docstrings_are_sentences_of_people():
    examples = load(name="docstrings", train_size=2000, eval_size=100).train
    completions = [example.messages[1]["content"] for example in examples]
    assert all(prompt.startswith("What does `") and " at 0x" not in prompt for prompt in prompts(examples))
    assert all(20 <= len(text) <= 300 and text == text.strip() for text in completions)
    assert len(set(completions)) == len(completions)


@pytest.mark.slow
def test_docstrings_do_not_depend_on_where_python_lies():
    examples = load(name="docstrings", train_size=None, eval_size=1).train
    assert len(examples) > 3000
    assert not [prompt for prompt in prompts(examples) if sys.executable in prompt]


@pytest.mark.slow
@EMBEDDED
def test_too_many_examples_are_refused_with_the_number_there_is(name):
    with pytest.raises(UsageError, match=rf"at most the \d+ examples of {name}, but is 900000 \+ 10 = 900010"):
        load(name=name, train_size=900_000, eval_size=10)


def test_a_file_is_split_by_its_seed(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", pairs(20))
    corpus = load(path=path, eval_size=5)
    assert (len(corpus.train), len(corpus.eval)) == (15, 5)
    assert sorted(prompts(corpus.train) + prompts(corpus.eval)) == sorted(row["prompt"] for row in pairs(20))
    assert load(path=path, eval_size=5).fingerprint == corpus.fingerprint
    assert load(path=path, eval_size=5, seed=1).eval != corpus.eval


def test_duplicates_of_held_out_examples_are_dropped_and_counted(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", pairs(10) * 3)
    corpus = load(path=path, eval_size=4)
    assert not set(corpus.train) & set(corpus.eval)
    assert len(corpus.train) + corpus.duplicates == 26
    assert corpus.duplicates > 0


def test_dropped_duplicates_are_made_up_for(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [*pairs(10), *pairs(10)])
    corpus = load(path=path, eval_size=4, train_size=10)
    assert len(corpus.train) == 10
    with pytest.raises(UsageError, match=r"at most the 20 examples of file less the \d that are held out as well"):
        load(path=path, eval_size=4, train_size=16)


def test_a_file_of_its_own_is_evaluated_on_whole(tmp_path):
    path = write_rows(tmp_path / "train.jsonl", pairs(10))
    held_out = write_rows(tmp_path / "eval.jsonl", pairs(3) + pairs(4, "other"))
    corpus = load(path=path, eval_path=held_out, eval_size=None)
    assert (len(corpus.train), len(corpus.eval), corpus.duplicates) == (7, 7, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eval_size": 8}, r"data.eval_size must be at most the 7 examples that there are, but is 8"),
        ({"train_size": 11}, r"data.train_size must be at most the \d+ examples that there are, but is 11"),
    ],
)
def test_sizes_beyond_two_files_are_refused(tmp_path, changed, message):
    path = write_rows(tmp_path / "train.jsonl", pairs(10))
    held_out = write_rows(tmp_path / "eval.jsonl", pairs(7, "other"))
    with pytest.raises(UsageError, match=message):
        load(**{"path": path, "eval_path": held_out, "eval_size": None, **changed})


def test_both_files_problems_come_at_once(tmp_path):
    with pytest.raises(UsageError) as caught:
        load(path=str(tmp_path / "no.jsonl"), eval_path=str(tmp_path / "neither.jsonl"))
    assert [problem.split(" must")[0] for problem in caught.value.problems] == ["data.path", "data.eval_path"]


def test_training_on_what_is_evaluated_on_leaves_nothing(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", pairs(5))
    with pytest.raises(UsageError, match=r"not in the eval set, but all of data\.path are in it"):
        load(path=path, eval_path=path, eval_size=None)


def test_an_eval_size_that_takes_everything_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", pairs(5))
    with pytest.raises(UsageError, match=r"data.eval_size must leave examples of file to train on, but is 5"):
        load(path=path, eval_size=5)


class TestMixture:
    def mixed(self, tmp_path, **changed):
        one = source(path=write_rows(tmp_path / "one.jsonl", pairs(40, "one")), weight=3)
        two = source(path=write_rows(tmp_path / "two.jsonl", pairs(40, "two")), weight=1)
        return load(**{"name": "mixture", "sources": [one, two], "train_size": 20, "eval_size": 8, **changed})

    def shares(self, examples):
        return Counter(prompt.split()[0] for prompt in prompts(examples))

    def test_it_mixes_by_weight(self, tmp_path):
        corpus = self.mixed(tmp_path)
        assert self.shares(corpus.train) == {"one": 15, "two": 5}
        assert self.shares(corpus.eval) == {"one": 6, "two": 2}
        assert self.shares(corpus.train[:10]).keys() == {"one", "two"}  # shuffled together

    def test_without_a_size_the_source_that_is_used_up_first_decides(self, tmp_path):
        corpus = self.mixed(tmp_path, train_size=None)
        assert self.shares(corpus.train) == {"one": 34, "two": 11}

    def test_every_source_with_too_few_is_named(self, tmp_path):
        with pytest.raises(UsageError) as caught:
            self.mixed(tmp_path, train_size=400)
        assert [problem.split(".train_size")[0] for problem in caught.value.problems] == [
            "data.sources[0]",
            "data.sources[1]",
        ]

    @pytest.mark.slow
    def test_a_mixture_of_embedded_tasks(self):
        sources = [source(name="docstrings", weight=1), source(name="number_words", weight=1)]
        corpus = load(name="mixture", sources=sources, train_size=30, eval_size=10)
        assert corpus.name == "docstrings+number_words"
        assert sum(prompt.startswith("Write ") for prompt in prompts(corpus.train)) == 15


@pytest.mark.parametrize(("total", "weights"), [(10, [1, 1, 1]), (7, [0.3, 0.3, 0.4]), (1, [5, 1]), (0, [1, 2])])
def test_shares_add_up_and_are_off_by_less_than_one(total, weights):
    shares = _shares(total, weights)
    assert sum(shares) == total
    assert all(abs(share - total * w / sum(weights)) < 1 for share, w in zip(shares, weights, strict=True))
