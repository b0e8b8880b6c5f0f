"""Points to try first, as they are written, in the space that they must be points of."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lowrung.errors import UsageError
from lowrung.search import first
from lowrung.search.space import parse

SPACE = parse(
    [
        "lora.r=4,8",
        "lora=default,dora",
        "lora.target_modules=[q_proj],[q_proj,v_proj]",
        "lora.rank_pattern={q_proj:4},{q_proj:8}",
        "data.eval_size=null,64",
        "train.packing=true,false",
        "+note='a, b',\"it's\"",
        "train.learning_rate=tag(log,interval(1e-5,1e-3))",
        "train.max_steps=int(interval(1,9))",
    ],
    OverridesParser.create(),
)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"lora.r": 8}, {"lora.r": 8}),
        ({"lora.r": 8.0, "+note": "'a, b'"}, {"lora.r": 8, "note": "'a, b'"}),
        ({"lora.r": "4", "note": '"it\'s"'}, {"lora.r": 4, "note": r"'it\'s'"}),
        ({"lora": {"r": 8, "target_modules": ["q_proj"]}}, {"lora.r": 8, "lora.target_modules": "[q_proj]"}),
        (
            {"lora": "dora", "lora.target_modules": "[q_proj,v_proj]"},
            {"lora": "dora", "lora.target_modules": "[q_proj,v_proj]"},
        ),
        (
            {"lora.rank_pattern": {"q_proj": 8}, "data.eval_size": None},
            {"lora.rank_pattern": "{q_proj:8}", "data.eval_size": "null"},
        ),
        ({"train.packing": False}, {"train.packing": False}),
        ({"train.learning_rate": 1e-5}, {"train.learning_rate": 1e-5}),
        ({"train.learning_rate": "3e-4", "train.max_steps": 9.0}, {"train.learning_rate": 3e-4, "train.max_steps": 9}),
    ],
)
def test_values_are_those_of_the_space(written, expected):
    (point,) = first.read([written], [SPACE])
    assert point == expected
    assert {key: type(value) for key, value in point.items()} == {key: type(value) for key, value in expected.items()}


@pytest.mark.parametrize(
    ("points", "problems"),
    [
        ("lora.r", ["must be a list of points such as"]),
        ({"lora.r": 8}, ["must be a list of points such as"]),
        ([{}], ["point 1: a point must give a value"]),
        ([{"lora.r": 8}, 8], ["point 2: a point must give a value"]),
        ([{"lora.r": 5}], [r"point 1: lora\.r must be one of 4, 8, but is 5\."]),
        ([{"lora.r": True}], ["but is True"]),
        ([{"lora.r": [4, 8]}], [r"but is \[4,8\]"]),
        ([{"lora.r": "4,8"}], ["must have one value, but has several: 4,8"]),
        ([{"train.learning_rate": 2e-3}], [r"must be in tag\(log,interval\(1e-05,0\.001\)\), but is 0\.002"]),
        ([{"train.learning_rate": float("nan")}], ["but is nan"]),
        ([{"train.max_steps": 1.5}], [r"must be in int\(interval\(1,9\)\), but is 1\.5"]),
        ([{"train.max_steps": float("inf")}], ["but is inf"]),
        ([{"train.learning_rate": "fast"}], ["but is fast"]),
        ([{"train.learning_rate": "a)b("}], ["cannot be read"]),
        ([{"lora.rr": 8}], [r"what is swept is lora\.r, lora, .*, train\.max_steps\. Did you mean lora\.r\?"]),
        (
            [{"seed": 1}, {"lora.r": 3, "x": 1}],
            ["point 1: seed must be swept", "point 2: .*but is 3", "point 2: x must"],
        ),
        ([{"lora.r": 8}, {"lora.r": 4}, {"lora.r": "8"}], ["point 3 is point 1 again"]),
    ],
)
def test_what_is_no_point_is_said_of_all_of_them(points, problems):
    with pytest.raises(UsageError) as caught:
        first.read(points, [SPACE])
    assert len(caught.value.problems) == len(problems)
    for found, expected in zip(caught.value.problems, problems, strict=True):
        with pytest.raises(ValueError, match=expected):
            raise ValueError(found)


def test_none_is_no_point():
    assert first.read(None, [SPACE]) == []


def test_a_part_takes_what_a_whole_point_leaves():
    space = parse(["a=1,2", "b=1,2"], OverridesParser.create())
    grid = [(at, space) for at in space.grid()]
    assert first.in_turn([{"a": 1}, {"a": 1, "b": 1}, {"b": 2}], grid) == [1, 0, 3]
    assert first.in_turn([{"a": 1}, {"a": 1}, {"a": 1}], grid) == [0, 1, -1]


def test_a_point_of_a_union_lies_in_one_of_its_spaces():
    low, high = (
        parse([f"lora={lora}", f"train.learning_rate=interval({ends})"], OverridesParser.create())
        for lora, ends in (("default,dora", "1e-4,1e-3"), ("full,rslora", "1e-6,1e-5"))
    )
    points = [{"lora": "full", "train.learning_rate": 1e-6}, {"train.learning_rate": 1e-3}, {"lora": "dora"}]
    assert first.read(points, [low, high]) == points
    with pytest.raises(UsageError, match=r"in none: lora must .* Or: train\.learning_rate must be in interval\(1e-06"):
        first.read([{"lora": "full", "train.learning_rate": 1e-3}], [low, high])
    assert [first.fits({"train.learning_rate": 5e-4}, {"lora": "x"}, space) for space in (low, high)] == [True, False]
