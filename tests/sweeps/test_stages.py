"""Stages: each starts from what an earlier one found, in one study."""

import dataclasses
import json
import shutil

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from lowrung.config.schema import Config
from lowrung.errors import RunFailed, UsageError
from lowrung.store.outcome import Outcome, Status
from lowrung.studies import reading
from lowrung.sweeps import stages
from tests.stage import RATE, Act, by_seed, interrupts_at, trains

RATES = '{name:rates,params:{lora.r:8,train.learning_rate:"1e-4,1e-3,1e-2"}}'
RANKS = '{name:ranks,params:{lora.r:"4,8,16"}}'
SEEDS = '{name:seeds,start:2,params:{seed:"0,1,2"}}'


def staged(*each: str) -> str:
    return f"hydra.sweeper.stages=[{','.join(each)}]"


def tried(configs: list[Config]) -> list[tuple[int, float | None, int]]:
    return [(config.lora.r, config.train.learning_rate, config.seed) for config in configs]


ALL = [
    *((8, rate, 0) for rate in (1e-4, 1e-3, 1e-2)),
    *((r, 1e-3, 0) for r in (4, 16)),
    *((8, 1e-3, seed) for seed in (1, 2)),
    *((4, 1e-3, seed) for seed in (1, 2)),
]
"""What the three stages train. Losses: rank 8 at 1e-3 is best, then ranks 4 and 16, the first of which is taken."""


def worse_at(rate: float) -> Act:
    """Trains badly at a rate, and stands for Ctrl-C at rank 16."""

    def act(config: Config) -> Outcome | None:
        trained = interrupts_at(16)(config)
        if trained is None or config.train.learning_rate != rate:
            return trained
        return dataclasses.replace(trained, metrics={**trained.metrics, "eval/loss": 9.0})

    return act


def _told(trial: FrozenTrial) -> tuple[object, ...]:
    return trial.number, trial.params, trial.user_attrs["stage"], trial.state, trial.values


class TestStages:
    @pytest.mark.slow
    def test_a_stage_is_pruned_unless_it_says_otherwise(self, here):
        pruned = '{name:ranks,params:{lora.r:"8,2"}}'
        to_the_end = '{name:rates,prune:false,params:{train.learning_rate:"1e-3,1e-1"}}'
        command = ["seed=range(0,6)", "hydra/sweeper/pruner=wilcoxon"]
        ran = here.sweep(staged(pruned, to_the_end), *command, act=by_seed(*[0.0] * 6))
        seeds = [sum(config.lora.r == 2 for config in ran), sum(config.train.learning_rate == 1e-1 for config in ran)]
        assert seeds == [4, 6]  # four are what the test needs; at the rate, which is as much worse, all are trained

    @pytest.mark.slow
    def test_one_that_was_interrupted_is_read_as_far_as_it_came(self, here):
        """A trial that counts for two stages ranks with the later one, and what a later start left out is left out."""
        command = staged(RATES, RANKS)
        with pytest.raises(KeyboardInterrupt):
            here.sweep(command, act=interrupts_at(16))
        study = reading.read(here.study)
        assert [(trial.number, trial.stage, trial.stage_index) for trial in study.trials] == [
            (1, "rates, ranks", 1),
            (3, "ranks", 1),
            (0, "rates", 0),
            (2, "rates", 0),
            (4, "ranks", 1),
        ]
        shutil.rmtree(here.study.job(1).run.resolve())  # rank 8 at 1e-3 is run again, and is the worst now
        with pytest.raises(KeyboardInterrupt):
            here.sweep(command, act=worse_at(1e-3))
        study = reading.read(here.study)
        assert 3 not in {trial.number for trial in study.trials}
        assert "stage ranks starts from other trials now: what it ran before is left out (trial 3)." in study.doubts

    @pytest.mark.slow
    def test_each_starts_from_what_the_one_before_found_and_trains_nothing_twice(self, here, capsys):
        ran = here.sweep(staged(RATES, RANKS, SEEDS))
        assert tried(ran) == ALL
        trials = here.trials()
        assert [trial.user_attrs["stage"] for trial in trials] == ["rates"] * 3 + ["ranks"] * 2 + ["seeds"] * 2
        assert trials[3].params == {"lora.r": 4, "train.learning_rate": 1e-3}
        rows = json.loads(here.study.leaderboard.read_text())
        assert [(row["trial"], row["stage"]) for row in rows] == [
            (5, "seeds"),
            (6, "seeds"),
            (1, "rates, ranks"),
            (3, "ranks"),
            (4, "ranks"),
            (0, "rates"),
            (2, "rates"),
        ]
        assert [run["seed"] for run in rows[0]["runs"]] == [0, 1, 2]
        assert {run.tags["lowrung.stage"] for run in here.tracker.runs.values() if "lowrung.stage" in run.tags} == {
            "rates",
            "rates, ranks",
            "ranks",
            "seeds",
        }
        printed = capsys.readouterr().out
        assert "study s: 8 trials, 0 done before" in printed
        assert "stage ranks: starts from trial 1 of rates" in printed
        assert "trial 5 of seeds (lora.r=8 train.learning_rate=0.001), seed 0: reused" in printed

    @pytest.mark.slow
    def test_a_sweep_that_is_stopped_at_each_run_in_turn_is_the_sweep_in_one(self, here, tmp_path, monkeypatch):
        command = staged(
            '{name:rates,params:{lora.r:8,train.learning_rate:"1e-3,1e-2"}}',
            '{name:ranks,params:{lora.r:"4,8"}}',
            '{name:seeds,params:{seed:"0,1"}}',
        )
        expected = [(8, 1e-3, 0), (8, 1e-2, 0), (4, 1e-3, 0), (8, 1e-3, 1)]
        ran: list[Config] = []

        def act(config: Config) -> Outcome:
            if config not in ran:
                ran.append(config)
                raise KeyboardInterrupt
            return trains(config)

        for _ in expected:
            with pytest.raises(KeyboardInterrupt):
                here.sweep(command, act=act)
        here.sweep(command, act=act)
        assert tried(ran) == expected
        assert here.sweep(command) == []
        parts = [_told(trial) for trial in here.trials()]
        rows = json.loads(here.study.leaderboard.read_text())
        monkeypatch.chdir(tmp_path)
        here.sweep(command)
        assert parts == [_told(trial) for trial in here.trials()]
        kept = ("trial", "stage", "point", "status", "metrics")
        assert [{name: row[name] for name in kept} for row in rows] == [
            {name: row[name] for name in kept} for row in json.loads(here.study.leaderboard.read_text())
        ]

    @pytest.mark.slow
    def test_stages_that_start_from_the_same_one_run_side_by_side(self, here):
        dropout = "{name:dropout,of:rates,params:{lora.dropout:'0.1,0.2'}}"
        ran = here.sweep(staged(RATES, RANKS, dropout), slots=4)
        assert tried(ran[:3]) == ALL[:3]  # with a slot free: the next stages wait for what they start from
        assert [(c.lora.r, c.lora.dropout) for c in ran[3:]] == [(4, 0), (16, 0), (8, 0.1), (8, 0.2)]
        assert here.engine.most_at_once == 4

    @pytest.mark.slow
    def test_an_interval_in_each_stage_is_searched_at_each_start(self, here):
        search = f"{{name:rates,n_trials:4,params:{{train.learning_rate:'{RATE.partition('=')[2]}'}}}}"
        narrow = "{name:dropouts,start:2,n_trials:5,params:{lora.dropout:'interval(0,0.5)'}}"
        ran = here.sweep(staged(search, narrow))
        first = sorted(ran[:4], key=lambda config: trains(config).metrics["eval/loss"])
        rates = [config.train.learning_rate for config in first[:2]]
        assert [config.train.learning_rate for config in ran[4:]] == [rates[0], rates[1], rates[0], rates[1], rates[0]]
        assert len({config.lora.dropout for config in ran[4:]}) == 5

    @pytest.mark.slow
    def test_with_other_results_another_start_is_chosen_and_the_old_trials_are_left_out(self, here):
        ran = here.sweep(staged(RATES, RANKS))
        assert len(ran) == 5

        def act(config: Config) -> Outcome:
            trained = trains(config)
            is_new = config.train.learning_rate == 1e-2
            return Outcome(Status.COMPLETE, {**trained.metrics, "eval/loss": 0.5}) if is_new else trained

        run = here.study.job(2).run.resolve()
        shutil.rmtree(run)
        assert tried(here.sweep(staged(RATES, RANKS), act=act)) == [(8, 1e-2, 0), (4, 1e-2, 0), (16, 1e-2, 0)]
        assert len(json.loads(here.study.leaderboard.read_text())) == 5

    @pytest.mark.slow
    def test_nothing_to_start_from_is_one_sentence(self, here):
        with pytest.raises(RunFailed, match=r"^Stage 'ranks' must start from trials of 'rates', but none of these"):
            here.sweep(staged(RATES, RANKS), act=lambda config: Outcome(Status.DIVERGED, cause="too fast"))
        assert [trial.user_attrs["stage"] for trial in here.trials()] == ["rates"] * 3

    @pytest.mark.slow
    def test_a_failed_trial_does_not_stop_the_stages(self, here):
        def act(config: Config) -> Outcome:
            failed = Outcome(Status.FAILED, cause="no luck")
            return failed if config.train.learning_rate == 1e-4 else trains(config)

        with pytest.raises(RunFailed, match="1 of 5 trials failed"):
            here.sweep(staged(RATES, RANKS), act=act)
        assert tried(here.sweep(staged(RATES, RANKS))) == [(8, 1e-4, 0)]

    @pytest.mark.slow
    def test_stages_belong_to_the_study(self, here):
        here.sweep(staged(RATES, RANKS))
        with pytest.raises(UsageError, match=r"stage ranks was best of rates: lora\.r=4,8,16 .*, and is 2 of rates"):
            here.sweep(staged(RATES, "{name:ranks,start:2,params:{lora.r:'4,8,16'}}"))

    @pytest.mark.slow
    def test_a_dry_run_shows_what_is_known(self, here, capsys):
        here.sweep(staged(RATES, RANKS, SEEDS), "hydra.sweeper.dry_run=true")
        printed = capsys.readouterr().out
        assert "study s: 8 trials, 1 at a time\n\nstage rates\n\n" in printed
        assert "stage ranks: the best of rates, with lora.r=4,8,16: at most 3 trials, 3 runs\n" in printed
        assert "stage seeds: the best 2 of ranks, with seed=0,1,2: at most 2 trials, 6 runs\n" in printed
        assert here.ran == []


class TestBadInput:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[]", "hydra.sweeper.stages must be a list of at least one dict, but is []"),
            ("{name:a}", "hydra.sweeper.stages must be a list of at least one dict, but is {'name': 'a'}"),
            (
                "[3]",
                "hydra.sweeper.stages[0] must be a dict of name, of, start, params, spaces, n_trials, prune, but is 3",
            ),
            ("[{params:{lora.r:4}}]", "hydra.sweeper.stages[0].name must be a text that names the stage, but is None"),
            ("[{name:a,prune:no}]", "hydra.sweeper.stages[0].prune must be true or false, but is 'no'."),
            (f"[{RATES},{RATES}]", ".name must be a stage's own, but 'rates' is that of hydra.sweeper.stages[0] too"),
            (f"[{RATES},{{name:b,of:c,params:{{lora.r:4}}}},{{name:c,params:{{lora.r:2}}}}]", "'c' is a later stage"),
            (f"[{RATES},{{name:b,of:b,params:{{lora.r:4}}}}]", "earlier stage (rates), but 'b' is the stage itself"),
            (f"[{RATES},{{name:b,of:rate,params:{{lora.r:4}}}}]", "earlier stage (rates), but 'rate' is no stage"),
            (
                f"[{RATES},{{name:b,start:worst,params:{{lora.r:4}}}}]",
                ".start must be best, ties or a number of trials",
            ),
            (f"[{RATES},{{name:b,start:0,params:{{lora.r:4}}}}]", "at least 1, but is 0"),
            (f"[{RATES},{{name:b,start:true,params:{{lora.r:4}}}}]", "at least 1, but is True"),
            (
                f"[{RATES},{{name:b,n_trials:few,params:{{lora.r:4}}}}]",
                ".n_trials must be a whole number, but is 'few'",
            ),
            ("[{name:a,of:b}]", "hydra.sweeper.stages[0].of must be left out: the first stage starts from"),
            (
                f"[{RATES},{{name:b}}]",
                "must change something of what it starts from, but has neither params nor spaces",
            ),
            (f"[{RATES},{{name:b,params:{{}}}}]", "hydra.sweeper.stages[1].params must be a dict of overrides"),
            (f"[{RATES},{{name:b,spaces:[]}}]", "hydra.sweeper.stages[1].spaces must be a list of at least one dict"),
            (
                f"[{RATES},{{name:b,parms:{{lora.r:8}}}}]",
                "has no 'parms': a stage has name, of, start, params, spaces, n_trials, prune. Did you mean params?",
            ),
        ],
    )
    def test_how_it_is_written(self, text, said):
        written = {"params": {}, "stages": OverridesParser.create().parse_override(f"x={text}").value()}
        problems = stages.read(written, written, []).problems
        assert any(said in problem for problem in problems), problems

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (
                "{name:b,params:{lora.r:8}}",
                "stage 'b' must change something of what it starts from, but all its points",
            ),
            ("{name:b,params:{lora.r:'range(3,3)'}}", "lora.r=range(3,3) stands for no value at all"),
            (
                "{name:b,params:{lora.dropout:'interval(0,1)'}}",
                "n_trials of stage 'b' must be set where an interval is",
            ),
            ("{name:b,n_trials:0,params:{lora.r:4}}", "n_trials of stage 'b' must be at least 1, but is 0"),
            ("{name:b,params:{lora.r:0}}", "lora.r must be"),
            ("{name:b,params:{lora.rnk:4}}", "lora.rnk is not a setting"),
            ("{name:b,params:{store:elsewhere}}", "store must be the same for all trials of a sweep"),
            ("{name:b,params:{data.max_length:8,lora.init:eva,lora.init_examples:0}}", "lora.init_examples must be"),
        ],
    )
    def test_what_it_comes_to_is_checked_before_anything_starts(self, here, text, said):
        with pytest.raises(UsageError) as caught:
            here.sweep(staged(RATES, text))
        assert any(said in problem for problem in caught.value.problems), caught.value.problems
        assert here.ran == []

    @pytest.mark.slow
    def test_what_belongs_to_each_stage_is_refused_beside_them(self, here):
        with pytest.raises(UsageError) as caught:
            here.sweep(staged(RATES), "hydra.sweeper.spaces=[{lora.r:4}]", "hydra.sweeper.n_trials=3")
        assert [problem.split(" must ")[0] for problem in caught.value.problems] == [
            "hydra.sweeper.spaces",
            "hydra.sweeper.n_trials",
        ]


class TestTyped:
    """What the command line takes the place of."""

    @staticmethod
    def spaces(*typed: str) -> list[tuple[tuple[str, ...], ...]]:
        written = {
            "params": {"verify": "none", "lora": "default"},
            "stages": [
                {"name": "a", "params": {"lora.r": 8, "train.learning_rate": "1e-4,1e-3"}},
                {"name": "b", "params": {"lora.r": "4,16"}},
            ],
        }
        asked = stages.read(written, written, typed)
        assert not asked.problems
        return [stage.spaces for stage in asked.stages]

    def test_a_single_value_holds_everywhere(self):
        assert self.spaces("lora.r=2") == [
            (("verify=none", "lora=default", "train.learning_rate=1e-4,1e-3", "lora.r=2"),),
            ((),),
        ]

    def test_several_take_the_place_of_what_is_searched(self):
        assert self.spaces("lora.r=2,32") == [
            (("verify=none", "lora=default", "lora.r=8", "train.learning_rate=1e-4,1e-3"),),
            (("lora.r=2,32",),),
        ]

    def test_several_that_no_stage_searches_are_an_axis_of_the_first(self):
        assert self.spaces("lora=default,pissa", "lora.dropout=0,0.1") == [
            (
                (
                    "verify=none",
                    "lora=default",
                    "lora.r=8",
                    "train.learning_rate=1e-4,1e-3",
                    "lora=default,pissa",
                    "lora.dropout=0,0.1",
                ),
            ),
            (("lora.r=4,16",),),
        ]
