"""What is written into an override is read as what it was."""

import random
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lowrung.config import grammar

PARSER = OverridesParser.create()
ALPHABET = "abcXYZ012 ,=:'\"\\/(){}[]$.-+~@%*?|#äß😀\n\t&;!<>^`e_nulTRUE"


def read(text: str) -> Any:
    """What a setting has after the override ``x=text``."""
    override = PARSER.parse_override(f"x={text}")
    assert not override.is_sweep_override()
    held: Any = OmegaConf.to_container(OmegaConf.create({"x": override.value()}), resolve=True)
    return held["x"]


NAMES = [
    "",
    "007",
    "1e3",
    "null",
    "true",
    "inf",
    "1_000",
    "a b",
    " a ",
    "a,b",
    "ä=1",
    "größe (1)/x",
    "..",
    "-x",
    "a.",
    "'",
]


@pytest.mark.parametrize("text", [*NAMES, '"', "\\", "a\\'b", "${a}", "\\${a}", "${", "a\nb", "{}", "[x]", "😀", "a:b"])
def test_a_text_is_read_as_itself(text):
    assert read(grammar.quote(grammar.literal(text))) == text


@pytest.mark.slow
def test_any_text_is_read_as_itself():
    drawn = random.Random(0)
    for _ in range(400):
        text = "".join(drawn.choices(ALPHABET, k=drawn.randint(0, 9)))
        if text != "???":  # OmegaConf's own word for a value that is missing
            assert read(grammar.quote(grammar.literal(text))) == text


@pytest.mark.parametrize(
    "value", [None, True, 4, 1e-5, ["a b", "4", 4, None], {"q.proj": 8, "a b": ["x,y"]}, [["q", "v"], []], {}]
)
def test_any_value_is_read_as_itself(value):
    assert read(grammar.quote(value)) == value


def test_an_interpolation_stays_one():
    assert PARSER.parse_override(f"x={grammar.quote('${twice:${lora.r}}')}").value() == "${twice:${lora.r}}"


def test_a_key_that_the_grammar_cannot_write():
    with pytest.raises(ValueError, match="the key 'größe' cannot be written"):
        grammar.quote({"größe": 1})


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("study=1e3", "study='1e3'"),
        ("study=true", "study='true'"),
        ("study=1_000", "study='1_000'"),
        ("study= 1e3 ", "study='1e3'"),
        ("++track.experiment=1e3", "++track.experiment='1e3'"),
        ("model.revision=1e3,main, 2e5", "model.revision='1e3',main,'2e5'"),
        *((same, same) for same in ("study=007", "study=12", "study=null", "study=a", "study='1e3'", "lora.r=1e3")),
    ],
)
def test_a_name_that_reads_as_a_number_stays_a_name(typed, kept):
    assert grammar.as_typed(typed).replace(" ", "") == kept


def test_how_an_unreadable_override_is_written():
    assert grammar.example("study=größe") == "study='größe'"
    assert grammar.example("größe=1") is None
