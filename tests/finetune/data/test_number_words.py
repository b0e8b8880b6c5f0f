import pytest

from lowrung.finetune.data import number_words


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
    assert number_words.number_in_words(number) == words


def test_each_number_is_drawn_once():
    prompts = [prompt for prompt, _ in number_words.pairs(seed=0, count=1000)]
    assert len(set(prompts)) == 1000
