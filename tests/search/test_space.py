from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lowrung.search.axes import Interval
from lowrung.search.space import Space, parse, problems
from tests import composing

PARSER = OverridesParser.create()


def space_of(*overrides: str) -> Space:
    return parse(overrides, PARSER)


def points(space: Space) -> list[list[str]]:
    """The axes' overrides for each point of the grid."""
    return [[text for text in space.overrides(params) if text not in space.fixed] for params in space.grid()]


@pytest.fixture(scope="module")
def parser() -> Iterator[OverridesParser]:
    with composing.composer() as composer:
        yield composer.parser


class TestGrid:
    def test_command_line_order_with_the_last_axis_fastest(self):
        assert points(space_of("b=2,1", "c=fixed", "a=x,y,z")) == [
            [f"b={b}", f"a={a}"] for b in (2, 1) for a in ("x", "y", "z")
        ]

    def test_no_axis_is_one_point(self):
        assert space_of("lora.r=8").grid() == [{}]
        assert space_of().grid() == [{}]

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("r=4,8,4,4", ["4", "8"]),
            ("r=8,4", ["8", "4"]),
            ("r=choice(4,8)", ["4", "8"]),
            ("r=range(1,4)", ["1", "2", "3"]),
            ("r=range(4)", ["0", "1", "2", "3"]),
            ("r=range(2,17,step=5)", ["2", "7", "12"]),
            ("r=range(0,1,0.5)", ["0.0", "0.5"]),
            ("r=sort(16,4,8)", ["4", "8", "16"]),
            ("lr=1e-4,1e-5,0.001", ["0.0001", "1e-05", "0.001"]),
            ("x=true,false", ["True", "False"]),
            ("x=null,4", ["null", "4"]),
            ("x=a,b", ["a", "b"]),
            ("x='a b','c,d'", ["'a b'", "'c,d'"]),
            ("x='4',4", ["'4'", "4"]),
            ("x=[q_proj],[q_proj,v_proj]", ["[q_proj]", "[q_proj,v_proj]"]),
            ("x={q_proj:4},{q_proj:8}", ["{q_proj:4}", "{q_proj:8}"]),
            ("x=a/b,$c", ["a/b", "$c"]),
        ],
    )
    def test_values_each_once(self, override, expected):
        key = override.partition("=")[0]
        assert points(space_of(override)) == [[f"{key}={text}"] for text in expected]

    def test_glob_takes_the_choices_of_a_group(self, parser):
        (axis,) = parse(["lora=glob(*)"], parser).choices
        assert {"default", "rslora"} <= set(axis.values)
        (axis,) = parse(["lora=glob(rs*)"], parser).choices
        assert axis.values == ("rslora",)

    def test_shuffle_pairs_each_value_with_its_own_text(self):
        for _ in range(5):
            (axis,) = space_of("r=shuffle(4,8,16,32)").choices
            assert [str(value) for value in axis.values] == list(axis.texts)
            assert sorted(axis.texts, key=int) == ["4", "8", "16", "32"]
            assert axis.distinct == space_of("r=4,8,16,32").choices[0].distinct

    @pytest.mark.parametrize(
        "override",
        [
            "r=4,8",
            "lr=1e-4,1e-5",
            "x=true,false",
            "x=null,3",
            "x='a b','c,d',\"it's\"",
            "x='4',4",
            "x=[q_proj],[q_proj,v_proj],[]",
            "x={a:1},{b:[2,c]}",
            "x=range(0,1,0.25)",
        ],
    )
    def test_a_point_reads_back_as_what_was_typed(self, override):
        elements = PARSER.parse_override(override).sweep_iterator()
        typed = [element.text if isinstance(element, QuotedString) else element for element in elements]
        read = [PARSER.parse_override(text).value() for (text,) in points(space_of(override))]
        assert read == typed
        assert [type(value) for value in read] == [type(value) for value in typed]


class TestRepeatedKeys:
    def test_the_command_line_comes_after_the_preset_and_holds(self):
        space = space_of("lora.r=2,4,8", "train.max_steps=5,10", "lora.r=16,32")
        assert points(space)[0] == ["lora.r=16", "train.max_steps=5"]
        assert len(space.grid()) == 4

    def test_an_axis_can_become_fixed_and_back(self):
        assert space_of("lora.r=2,4", "lora.r=8") == Space(("lora.r=8",))
        assert [axis.key for axis in space_of("lora.r=8", "lora.r=2,4").choices] == ["lora.r"]
        assert space_of("lora.r=8", "lora.r=2,4").fixed == ()

    def test_an_interval_replaces_a_list(self):
        space = space_of("lr=1,2", "lr=interval(0,1)")
        assert space.choices == ()
        assert [axis.key for axis in space.intervals] == ["lr"]


class TestIntervals:
    @pytest.mark.parametrize(
        ("override", "interval", "distribution"),
        [
            ("x=interval(0.5,2)", Interval("x", 0.5, 2.0, False, False), FloatDistribution(0.5, 2.0)),
            ("x=interval(1,5)", Interval("x", 1.0, 5.0, False, False), FloatDistribution(1.0, 5.0)),
            (
                "x=tag(log,interval(1e-5,1e-3))",
                Interval("x", 1e-5, 1e-3, True, False),
                FloatDistribution(1e-5, 1e-3, log=True),
            ),
            ("x=int(interval(2,64))", Interval("x", 2, 64, False, True), IntDistribution(2, 64)),
            ("x=tag(log,int(interval(2,64)))", Interval("x", 2, 64, True, True), IntDistribution(2, 64, log=True)),
        ],
    )
    def test_become_distributions(self, override, interval, distribution):
        space = space_of(override)
        assert space.intervals == (interval,)
        assert space.distributions() == {"x": distribution}

    def test_an_open_one_stands_at_its_low_end(self):
        space = space_of("lr=tag(log,interval(1e-5,1e-3))", "k=int(interval(2,8))", "r=4,8", "seed=1")
        assert space.overrides({"r": 4}) == ["lr=1e-05", "k=2", "r=4", "seed=1"]
        assert space.overrides({"r": 4}, is_high=True) == ["lr=0.001", "k=8", "r=4", "seed=1"]
        assert space.overrides({"r": 4, "k": 3, "lr": 0.5}) == ["lr=0.5", "k=3", "r=4", "seed=1"]

    def test_do_not_multiply_the_grid(self):
        assert space_of("r=4,8", "lr=interval(0,1)").grid() == [{"r": 4}, {"r": 8}]

    def test_a_drawn_value_is_kept_to_the_last_digit(self):
        value = 0.1 + 0.2
        (override,) = space_of("x=interval(0,1)").overrides({"x": value})
        assert PARSER.parse_override(override).value() == value


class TestDistributions:
    def test_a_list_is_a_choice_whatever_its_order(self):
        expected = {"r": CategoricalDistribution((4, 8, 16))}
        for override in ("r=4,8,16", "r=16,8,4,8", "r=shuffle(8,4,16)"):
            assert space_of(override).distributions() == expected

    def test_optuna_can_keep_every_kind_of_value(self):
        space = space_of("x=null,true,1e-4,3,'a b',[q_proj],{a:1}")
        (distribution,) = space.distributions().values()
        assert isinstance(distribution, CategoricalDistribution)
        for params in space.grid():
            kept: Any = distribution.to_external_repr(distribution.to_internal_repr(params["x"]))
            assert space.texts({"x": kept}) == space.texts(params)


class TestProblems:
    @staticmethod
    def problems(*overrides: str, n_trials: int | None = None) -> list[str]:
        return problems(PARSER.parse_overrides(list(overrides)), n_trials)

    def test_none(self):
        assert self.problems() == []
        assert self.problems("r=4,8", "seed=3", "sweeps=x", "study=y") == []
        assert self.problems("r=4,8", "lr=tag(log,interval(1e-5,1))", n_trials=1) == []

    def test_an_interval_needs_n_trials(self):
        (problem,) = self.problems("a=interval(0,1)", "r=4,8", "b=interval(0,1)")
        assert problem == (
            "hydra.sweeper.n_trials must be set where an interval is searched (a, b), since it has no end of its own."
            " Add hydra.sweeper.n_trials=20, say."
        )

    @pytest.mark.parametrize(
        ("overrides", "n_trials", "problem"),
        [
            (["r=4"], 0, "hydra.sweeper.n_trials must be at least 1, but is 0."),
            (
                ["x=interval(8,2)"],
                3,
                "x must be searched from a low end to a higher one, but got interval(8.0, 2.0).",
            ),
            (
                ["x=tag(log,interval(0,1))"],
                3,
                "x must be above 0 to be searched by orders of magnitude, but got interval(0.0, 1.0).",
            ),
            (
                ["seed=interval(1,9)"],
                None,
                "seed must not be searched: it would be chosen for its luck. Give a list, such as seed=0,1,2, to train"
                " every trial with each of them and to compare the means.",
            ),
            (
                ["sweeps=a,b"],
                None,
                "sweeps must name one preset: each is a sweep of its own. Run them one after the other.",
            ),
            (
                ["study=a,b"],
                None,
                "study must have one value: it names the sweep. Leave it out, or run a sweep for each.",
            ),
        ],
    )
    def test_each_is_one_message(self, overrides, n_trials, problem):
        assert self.problems(*overrides, n_trials=n_trials) == [problem]

    def test_all_at_once(self):
        assert (
            len(self.problems("seed=interval(1,2)", "x=interval(8,2)", "y=tag(log,interval(0,1))")) == 4
        )  # n_trials too
