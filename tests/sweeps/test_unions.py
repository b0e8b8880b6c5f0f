"""A union of spaces as one study."""

import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution

from lowrung.errors import UsageError
from lowrung.sweeps import stages
from tests.stage import RATE

FULL_OR_NOT = (
    'hydra.sweeper.spaces=[{lora:full,train.learning_rate:"1e-5,1e-4"},'
    '{lora:default,lora.r:"8,16",train.learning_rate:"1e-4,1e-3"}]'
)


def spaces(text: str) -> str:
    return f"hydra.sweeper.spaces=[{text}]"


class TestGrid:
    @pytest.mark.slow
    def test_the_points_of_all_spaces_run_once(self, here):
        ran = here.sweep(FULL_OR_NOT)
        assert [(c.lora.method, c.lora.r, c.train.learning_rate) for c in ran] == [
            ("full", ran[0].lora.r, 1e-5),
            ("full", ran[0].lora.r, 1e-4),
            *(("lora", r, rate) for r in (8, 16) for rate in (1e-4, 1e-3)),
        ]
        params = [trial.params for trial in here.trials()]
        assert params[0] == {"lora": "full", "train.learning_rate": 1e-5}
        assert params[2] == {"lora": "default", "lora.r": 8, "train.learning_rate": 1e-4}
        distributions = [trial.distributions["train.learning_rate"] for trial in here.trials()]
        assert set(distributions) == {CategoricalDistribution((1e-5, 1e-4, 1e-3))}
        rows = json.loads(here.study.leaderboard.read_text())
        assert len([row for row in rows if "lora.r" not in row["point"]]) == 2

    @pytest.mark.slow
    def test_what_is_typed_holds_in_all_of_them(self, here):
        ran = here.sweep(FULL_OR_NOT, "train.learning_rate=3e-4")
        assert [(config.lora.method, config.train.learning_rate) for config in ran] == [
            ("full", 3e-4),
            ("lora", 3e-4),
            ("lora", 3e-4),
        ]
        assert [sorted(trial.params) for trial in here.trials()] == [["lora"], ["lora", "lora.r"], ["lora", "lora.r"]]

    @pytest.mark.slow
    def test_params_are_common_and_the_order_does_not_matter(self, here, capsys):
        given = ["verify=none", "train.max_steps=1,2", "+x=1"][:2]
        assert len(here.sweep(spaces('{lora.r:4},{lora.r:"4,8"}'), *given)) == 4  # rank 4 once
        assert here.sweep(spaces('{lora.r:"8,4"},{lora.r:4}'), *given) == []
        assert "4 trials, 4 done before" in capsys.readouterr().out


class TestSearch:
    @pytest.mark.slow
    def test_exact_points_have_one_trial_and_open_ones_the_rest(self, here):
        """Both ends of each space's own interval are kept; Optuna lets bounds differ, not the kind."""
        own = (
            "{lora:full,train.learning_rate:1e-5},"
            '{lora:default,train.learning_rate:"tag(log,interval(1e-4,1e-2))"},'
            '{lora:default,lora.r:4,train.learning_rate:"tag(log,interval(1e-3,1e-1))"}'
        )
        ran = here.sweep(spaces(own), n_trials=7)
        kinds = [(config.lora.method, config.lora.r == 4) for config in ran]
        assert (kinds.count(("full", False)), kinds.count(("lora", False)), kinds.count(("lora", True))) == (1, 3, 3)
        for trial in here.trials():
            rate, distribution = trial.params["train.learning_rate"], trial.distributions["train.learning_rate"]
            assert isinstance(distribution, FloatDistribution)
            assert distribution.log
            low, high = (
                (1e-5, 1e-1)
                if trial.params["lora"] == "full"
                else (1e-3, 1e-1)
                if "lora.r" in trial.params
                else (1e-4, 1e-2)
            )
            assert low <= rate <= high

    @pytest.mark.slow
    @pytest.mark.parametrize("sampler", ["qmc", "nsga2"])
    def test_each_sampler_draws_in_each_space(self, here, sampler):
        own = (
            '{lora:default,train.learning_rate:"tag(log,interval(1e-4,1e-2))"},'
            '{lora:rslora,lora.dropout:"interval(0,0.5)",train.learning_rate:"tag(log,interval(1e-4,1e-2))"}'
        )
        ran = here.sweep(spaces(own), f"hydra/sweeper/sampler={sampler}", n_trials=10)
        assert [config.lora.use_rslora for config in ran] == [False, True] * 5
        assert len({config.train.learning_rate for config in ran}) == 10
        assert len({config.lora.dropout for config in ran if config.lora.use_rslora}) == 5


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[]", "hydra.sweeper.spaces must be a list of at least one dict of overrides, but is []"),
            ("{lora.r:4}", "hydra.sweeper.spaces must be a list of at least one dict of overrides, but is {"),
            ("[{}]", "hydra.sweeper.spaces[0] must be a dict of overrides, such as {lora.r: 8}, but is empty"),
            ("[{lora.r:4},8]", "hydra.sweeper.spaces[1] must be a dict of overrides, such as {lora.r: 8}, but is 8"),
            ("[{lora.r:4},{lora.r:4}]", "hydra.sweeper.spaces[1] is the same space as hydra.sweeper.spaces[0]"),
            ("[{lora.r:4},{seed:'0,1'}]", "hydra.sweeper.spaces[1].seed must be the same for all spaces"),
            ("[{lora.r:4},{study:x}]", "hydra.sweeper.spaces[1].study must be left out"),
            ("[{lora.r:4},{hydra.sweeper.timeout:3}]", "spaces[1].hydra.sweeper.timeout must be left out"),
        ],
    )
    def test_how_it_is_written(self, text, said):
        written = {"params": {}, "spaces": OverridesParser.create().parse_override(f"x={text}").value()}
        problems = stages.read(written, written, []).problems
        assert any(said in problem for problem in problems), problems

    def test_a_space_that_deletes_a_key(self):
        written = {"params": {}, "spaces": [{"lora.r": 4}, {"~lora.dropout": 0}]}
        (problem,) = stages.read(written, written, []).problems
        assert problem.startswith("hydra.sweeper.spaces[1] must give values, but deletes lora.dropout.")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{lora.r:4},{lora.rnk:8}", "lora.rnk is not a setting"),
            ("{lora.r:4},{lora.r:0}", "lora.r must be"),
            ("{lora.r:4},{lora.r:'range(4,4)'}", "lora.r=range(4,4) stands for no value at all"),
            (
                "{lora.dropout:'interval(0,0.5)'},{lora.dropout:'tag(log,interval(0.1,0.5))'}",
                "lora.dropout must be searched in one way",
            ),
            (
                "{train.learning_rate:null},{train.learning_rate:'interval(1e-4,1e-3)'}",
                "train.learning_rate must be numbers of one kind",
            ),
        ],
    )
    def test_what_it_comes_to_is_checked_before_anything_starts(self, here, text, said):
        with pytest.raises(UsageError) as caught:
            here.sweep(spaces(text), n_trials=2)
        assert any(said in problem for problem in caught.value.problems), caught.value.problems
        assert here.ran == []

    @pytest.mark.slow
    def test_all_at_once(self, here):
        with pytest.raises(UsageError) as caught:
            here.sweep(spaces("{},{lora.rnk:8},{study:x}"), "train.max_steps=0", RATE)
        assert len(caught.value.problems) == 5
