"""Settings that follow others by arithmetic, as they are typed, and what is said of those that cannot."""

import pytest

from lowrung.config import commandline, grammar, presets, resolvers

DECAY = "train.weight_decay"
TIE = "${product:2,${root:${ratio:${train.batch_size},8}}}"


@pytest.mark.parametrize(
    ("resolver", "values", "expected"),
    [
        ("product", (2, 3, 4), 24),
        ("product", (2, 0.5), 1.0),
        ("ratio", (8, 2), 4),
        ("ratio", (8, 3), 8 / 3),
        ("ratio", (8.0, 2), 4.0),
        ("root", (16,), 4),
        ("root", (0,), 0),
        ("root", (2,), 2**0.5),
        ("twice", (4,), 8),
        ("first", (None, 0, 3, 4), 3),
    ],
)
def test_numbers(resolver, values, expected):
    found = resolvers.RESOLVERS[resolver](*values)
    assert (found, type(found)) == (expected, type(expected))


def test_a_tie_can_be_typed_without_quotes_and_stands_in_params(composer):
    typed = grammar.as_typed(f"train.weight_decay={TIE}")
    assert composer.config(typed, "train.batch_size=32").train.weight_decay == 4
    assert composer.config(typed, "train.batch_size=2").train.weight_decay == 1
    (written,) = presets.overrides({"train.weight_decay": TIE}, {"train.weight_decay": 2.0})
    assert written == typed
    assert grammar.as_typed(typed) == typed
    for left in ("train.weight_decay=${product:2,3}", "lora.r=${a:${b}},${c}", "x=${a:${b}", "x='${a:${b}}'"):
        assert grammar.as_typed(left) == left


def test_a_whole_tie_can_be_a_rank(composer):
    assert composer.config("lora.r=${ratio:64,8}").lora.r == 8


@pytest.mark.parametrize(
    ("setting", "tie", "message"),
    [
        (
            DECAY,
            "${product:2,${train.batchsize}}",
            r"batchsize is not a setting\. Did you mean train\.batch_size\? There are train\.",
        ),
        (DECAY, "${product:2,${.batchsize}}", r"batchsize is not a setting\. Did you mean train\.batch_size\?"),
        (DECAY, "${ratio:${nothing},2}", r"nothing is not a setting\. .* There are model, data, lora"),
        (DECAY, "${ratio:1,0}", r"ratio must not divide by 0, but is 1 / 0\."),
        (DECAY, "${ratio:1,${lora.dropout}}", r"ratio must not divide by 0, but is 1 / 0\.0\."),
        (DECAY, "${root:${product:-1,${lora.r}}}", r"root must be of 0 or more, but is of -"),
        (DECAY, "${root:${data.name}}", r"root must have numbers, as in .*, but has the text docstrings\."),
        (DECAY, "${root:${study}}", r"but has null\."),
        (DECAY, "${root:${lora.use_dora}}", r"but has False\."),
        (DECAY, "${root:${data}}", r"root must have numbers"),
        (DECAY, "${root:1,2}", r"root must have 1, as in .*, but has 2\."),
        (DECAY, "${ratio:1}", r"ratio must have 2, as in .*, but has 1\."),
        (DECAY, "${product:}", r"product must have numbers"),
        (DECAY, "${rout:${lora.r}}", r"there is no \$\{rout:.*but there are twice, .*, root, .*\. Did you mean root\?"),
        (DECAY, "${product:${train.weight_decay},2}", r"Recursive"),
        ("lora.r", "${ratio:8,3}", r"lora\.r must be a whole number, but \$\{ratio:8,3\} is '2\.66"),
    ],
)
def test_what_cannot_be_computed_is_said_in_one_sentence(composer, setting, tie, message):
    (problem,) = commandline.problems([grammar.as_typed(f"{setting}={tie}")], composer.compose, composer.parser)
    assert problem.startswith(setting)
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)
