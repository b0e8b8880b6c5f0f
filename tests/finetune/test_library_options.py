"""The options that go to a library as they are, held to its own dataclass."""

import dataclasses
from enum import Enum
from typing import Any, Literal

import pytest

from lowrung.finetune import library_options


class Way(Enum):
    """How."""

    LINEAR = "linear"
    COSINE = "cosine"


@dataclasses.dataclass
class Inner:
    """Options within options."""

    beta: float = 1e-4
    pairs: list[tuple[int, int]] | None = None


@dataclasses.dataclass
class Options:
    """A dataclass with every kind of type that TRL's and PEFT's have."""

    rate: float = 0.1
    steps: int = 1
    is_on: bool = False
    text: str = ""
    way: Way | str = "linear"
    bias: Literal["none", "all"] = "none"
    start: bool | Literal["eva", "mica"] = True
    names: list[str] | str | None = None
    numbers: dict[str, list[int]] | None = None
    ranks: dict[str, Any] | None = None
    inner: Inner | dict[str, Any] | None = None
    pairs: list[tuple[int, int]] | None = None
    anything: Any = None
    held: int = 0
    made: int = dataclasses.field(default=0, init=False)


def problems(**given: Any) -> list[str]:
    """The problems of these options."""
    return library_options.problems(Options, given, {"held": "lora.r sets it"}, "lora.peft")


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 1, "steps": 3, "is_on": True, "text": "", "anything": {"a": [1]}},
        {"way": "cosine", "bias": "all", "start": False},
        {"start": "eva", "names": "a.*", "ranks": {"a": 1}, "inner": {"beta": 1, "pairs": [[0, 1]]}},
        {"names": ["a", "b"], "numbers": {"a": [1]}, "pairs": [[0, 1], (2, 3)]},
        {"names": None, "numbers": None, "inner": None, "pairs": []},
    ],
)
def test_a_value_of_its_fields_type_passes(given: dict[str, Any]) -> None:
    assert problems(**given) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": "0.1"}, "lora.peft.rate must be a number, but is '0.1'."),
        ({"rate": True}, "lora.peft.rate must be a number, but is true."),
        ({"steps": 1.5}, "lora.peft.steps must be a whole number, but is 1.5."),
        ({"steps": None}, "lora.peft.steps must be a whole number, but is null."),
        ({"is_on": 1}, "lora.peft.is_on must be true or false, but is 1."),
        ({"way": "cosin"}, "lora.peft.way must be one of linear, cosine, but is 'cosin'. Did you mean cosine?"),
        ({"bias": "al"}, "lora.peft.bias must be one of none, all, but is 'al'. Did you mean all?"),
        ({"start": 1}, "lora.peft.start must be true or false or one of eva, mica, but is 1."),
        ({"names": [1]}, "lora.peft.names must be a list of texts or a text or null, but is [1]."),
        ({"numbers": {"a": ["b"]}}, "lora.peft.numbers must be a mapping or null, but is {'a': ['b']}."),
        ({"inner": {"bta": 1}}, "lora.peft.inner.bta is not a field of Inner"),
        ({"inner": {"beta": "x"}}, "lora.peft.inner.beta must be a number, but is 'x'."),
        ({"inner": 3}, "lora.peft.inner must be a mapping of beta, pairs or null, but is 3."),
        ({"pairs": [[1, 2, 3]]}, "lora.peft.pairs must be a list of"),
        ({"rat": 1}, "lora.peft.rat is not a field of Options"),
        ({"made": 1}, "lora.peft.made is not a field of Options"),
        ({"held": 1}, "lora.peft.held must be left out: lora.r sets it."),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_what_would(given: dict[str, Any], said: str) -> None:
    (problem,) = problems(**given)
    assert problem.startswith(said)


def test_a_field_that_is_misspelt_is_suggested_and_one_that_is_owned_is_not() -> None:
    assert problems(rat=1)[0].endswith("Did you mean rate?")
    assert "Did you mean held" not in problems(hel=1)[0]


def test_all_problems_come_at_once() -> None:
    assert len(problems(rate="a", steps="b", unknown=1, held=2)) == 4


def test_arguments_are_what_the_dataclass_takes() -> None:
    made = library_options.arguments(Options, {"inner": {"pairs": [[0, 1]]}, "pairs": [[2, 3]], "rate": 1})
    assert made == {"inner": Inner(pairs=[(0, 1)]), "pairs": [(2, 3)], "rate": 1}


def test_the_libraries_own_dataclasses_are_understood() -> None:
    from peft import LoraConfig
    from trl import SFTConfig

    assert library_options.problems(LoraConfig, {"exclude_modules": ["a"], "layers_pattern": "h"}, {}, "x") == []
    assert library_options.problems(SFTConfig, {"optim": "adamw_8bit", "adam_beta2": 0.99}, {}, "x") == []
    (problem,) = library_options.problems(SFTConfig, {"optim": "adamw_8bits"}, {}, "train.sft")
    assert problem.endswith("Did you mean adamw_8bit?")
