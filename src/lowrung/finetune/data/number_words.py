"""Numbers below a million in English words: a task with one right answer, made by code."""

import random

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "- - twenty thirty forty fifty sixty seventy eighty ninety".split()

MOST = 100_000
"""The most examples that are drawn: drawing short numbers once each gets slow beyond."""


def number_in_words(number: int) -> str:
    """English words for 0 <= number < 1,000,000: ``342`` is ``three hundred forty-two``."""
    if number >= 1000:
        rest = f" {number_in_words(number % 1000)}" if number % 1000 else ""
        return f"{number_in_words(number // 1000)} thousand{rest}"
    if number >= 100:
        rest = f" {number_in_words(number % 100)}" if number % 100 else ""
        return f"{ONES[number // 100]} hundred{rest}"
    if number >= 20:
        return TENS[number // 10] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return ONES[number]


def pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Questions and answers: numbers of one to six digits, each length as likely as the others, each number once."""
    draw = random.Random(seed)
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        number = draw.randrange(10 ** draw.randint(1, 6))
        numbers.setdefault(number)
    return [(f"Write {number} in English words.", number_in_words(number)) for number in numbers]
