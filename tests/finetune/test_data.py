import subprocess
import sys

import pytest

from lowrung.errors import UsageError
from lowrung.finetune import data


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (7, "seven"),
        (13, "thirteen"),
        (20, "twenty"),
        (42, "forty-two"),
        (100, "one hundred"),
        (342, "three hundred forty-two"),
        (1000, "one thousand"),
        (5966, "five thousand nine hundred sixty-six"),
        (300_017, "three hundred thousand seventeen"),
        (999_999, "nine hundred ninety-nine thousand nine hundred ninety-nine"),
    ],
)
def test_number_in_words(number, words):
    assert data.number_in_words(number) == words


@pytest.mark.parametrize("name", ["docstrings", "number_words"])
def test_train_and_eval_never_share_a_prompt(name):
    corpus = data.load(name=name, train_size=500, eval_size=100, seed=0)
    train, held_out = ({row["prompt"][0]["content"] for row in rows} for rows in (corpus.train, corpus.eval))
    assert (len(train), len(held_out)) == (500, 100)
    assert not train & held_out


@pytest.mark.parametrize("name", ["docstrings", "number_words"])
def test_the_seed_draws_the_examples(name):
    def fingerprint(seed):
        return data.load(name=name, train_size=50, eval_size=10, seed=seed).fingerprint

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)


@pytest.mark.parametrize("name", ["docstrings", "number_words"])
def test_held_out_rows_do_not_depend_on_the_training_size(name):
    few, many = (data.load(name=name, train_size=size, eval_size=20, seed=0) for size in (10, 100))
    assert few.eval["prompt"][:] == many.eval["prompt"][:]


def test_docstrings_are_the_same_whatever_else_was_imported():
    """torch replaces inspect.getfile, transformers adds to logging.Logger, pytest sets sys.unraisablehook."""
    code = (
        "from lowrung.finetune import data;"
        "print(data.load(name='docstrings', train_size=2000, eval_size=9, seed=0).fingerprint)"
    )
    import trl  # noqa: F401

    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert fresh.stdout.strip() == data.load(name="docstrings", train_size=2000, eval_size=9, seed=0).fingerprint


def test_docstrings_are_sentences_of_people():
    rows = data.load(name="docstrings", train_size=2000, eval_size=100, seed=0).train
    prompts = [row["prompt"][0]["content"] for row in rows]
    completions = [row["completion"][0]["content"] for row in rows]
    assert all(prompt.startswith("What does `") and " at 0x" not in prompt for prompt in prompts)
    assert all(20 <= len(text) <= 300 and text == text.strip() for text in completions)
    assert len(set(completions)) == len(completions)


@pytest.mark.parametrize("name", ["docstrings", "number_words"])
def test_too_many_examples_are_refused_with_the_number_there_is(name):
    with pytest.raises(UsageError, match=rf"at most the \d+ examples of {name}, but is 900000 \+ 10 = 900010"):
        data.load(name=name, train_size=900_000, eval_size=10, seed=0)
