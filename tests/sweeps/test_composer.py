"""The points of a grid, and what is refused before anything starts; tests/config/test_rules.py has the messages."""

from pathlib import Path

import pytest

from lowrung.errors import UsageError
from lowrung.sweeps import preflight
from tests.stage import RATE, ranks


class TestPoints:
    @pytest.mark.slow
    def test_points_with_equal_configs_run_once(self, here):
        assert len(here.sweep("verify=none", "verify.prompts=4,8")) == 1
        assert len(here.trials()) == 1

    @pytest.mark.slow
    def test_groups_and_lists_are_axes(self, here, capsys):
        ran = here.sweep("lora=default,rslora", "lora.target_modules=[q_proj],[q_proj,v_proj]")
        assert [(c.lora.use_rslora, c.lora.target_modules) for c in ran] == [
            (rslora, targets) for rslora in (False, True) for targets in (["q_proj"], ["q_proj", "v_proj"])
        ]
        assert "[q_proj,v_proj]" in capsys.readouterr().out.split("results:")[0].rsplit("trainable", 1)[1]

    @pytest.mark.slow
    def test_the_command_line_changes_a_preset(self, here):
        assert ranks(here.sweep("sweeps=rank_ladder", "lora.r=4,64")) == [4, 64]

    @pytest.mark.slow
    def test_fields_of_libraries_are_axes_like_any_other_setting(self, here, monkeypatch):
        """The preflight sees an interval's high end too: what it must be is known to the library alone."""
        check, seen = preflight.check_all, []

        def watched(engine, configs, *rest, **options):
            seen.extend(configs)
            return check(engine, configs, *rest, **options)

        monkeypatch.setattr(preflight, "check_all", watched)
        axes = ["train.sft.data_seed=1,2", "train.sft.neftune_noise_alpha=interval(1,9)"]
        ran = here.sweep("train.sft={optim:sgd}", *axes, n_trials=2)
        assert [config.train.sft.keys() for config in ran] == [{"optim", "data_seed", "neftune_noise_alpha"}] * 2
        assert [config.train.sft["data_seed"] for config in ran] == [1, 2]
        assert [config.train.sft["neftune_noise_alpha"] for config in seen] == [1, 1, 9, 9]

    @pytest.mark.slow
    def test_with_the_grid_sampler_an_interval_is_a_list(self, here):
        ran = here.sweep("lora.r=4,8", RATE, "hydra/sweeper/sampler=grid")
        rates = [1e-5, 1e-3, 1e-1]
        assert [(config.lora.r, config.train.learning_rate) for config in ran] == [
            (r, pytest.approx(rate)) for r in (4, 8) for rate in rates
        ]


class TestUsage:
    @pytest.mark.parametrize(
        ("overrides", "count"),
        [
            (["lora.r=4,0", RATE, "seed=interval(1,2)"], 3),
            (["lora.r=4,8", "seed=interval(1,9)"], 1),
            (["lora.r=4,8", "track.uri=postgresql://me:hunter2@there/x", "train.max_steps=0"], 2),
            (["lora.r=4,8", "hydra.sweeper.objectives={eval/loss:max}", "hydra.sweeper.n_trials=0"], 2),
            (["lora.r=4,8", "hydra.sweeper.objectives={eval/exact_match:maximize}"], 1),
        ],
    )
    def test_everything_is_said_at_once_and_nothing_made(self, here, overrides, count):
        with pytest.raises(UsageError) as caught:
            here.sweep(*overrides)
        assert len(caught.value.problems) == count
        assert "hunter2" not in str(caught.value)
        assert list(Path().iterdir()) == []

    @pytest.mark.parametrize(("part", "name"), [("sampler", "random"), ("pruner", "asha")])
    def test_a_part_that_is_set_like_a_value_is_to_be_chosen(self, here, part, name):
        with pytest.raises(UsageError, match=rf"^hydra/sweeper/{part} must be .* Write hydra/sweeper/{part}={name}\.$"):
            here.sweep("lora.r=4,8", f"hydra.sweeper.{part}={name}")

    def test_a_grid_of_one_value_is_refused(self, here):
        grid = ["hydra/sweeper/sampler=grid", "hydra.sweeper.sampler.n_values=1"]
        with pytest.raises(UsageError, match=r"^hydra\.sweeper\.sampler\.n_values must be at least 2, but is 1\.$"):
            here.sweep(RATE, *grid)

    def test_a_rule_that_only_pairs_break_is_found_in_the_grid(self, here):
        """Each value passes beside the others' first ones."""
        overrides = ["verify.merge_dtype=float32,float16", "~verify.tolerances.float16"]
        with pytest.raises(UsageError, match=r"verify\.tolerances must have an entry for float16"):
            here.sweep(*overrides)

    def test_a_setting_that_the_preflight_reads_cannot_be_an_interval(self, here):
        with pytest.raises(UsageError, match=r"data\.max_length must be a list of values such as data\.max_length=1,2"):
            here.sweep("data.max_length=int(interval(64,128))", n_trials=2)

    def test_wilcoxon_needs_seeds_to_compare(self, here):
        with pytest.raises(UsageError, match=r"must have at least 5 seeds, but has 1"):
            here.sweep("lora.r=8,4", "hydra/sweeper/pruner=wilcoxon")

    @pytest.mark.parametrize("timeout", ["soon", "0", "-5"])
    def test_a_timeout_that_is_no_duration(self, here, timeout):
        with pytest.raises(UsageError, match=r"hydra\.sweeper\.timeout must be seconds or a duration"):
            here.sweep("lora.r=2,4", f"hydra.sweeper.timeout={timeout}")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{params/trainable:"<400"}', r"params/trainable must be <= or >= and a number, but is '<400'"),
            ('{params/trainable:"<=many"}', r"params/trainable must be <= or >= and a number, but is '<=many'"),
            ('{params/trainble:"<=4"}', r"Did you mean params/trainable"),
            ("[1]", r"must be pairs such as"),
            ('{forget/loss_delta:"<=0.05"}', r"Add verify\.forgetting=48"),
        ],
    )
    def test_constraints_that_cannot_be_kept(self, here, text, message):
        with pytest.raises(UsageError, match=message):
            here.sweep("lora.r=4,8", f"hydra.sweeper.constraints={text}")


class TestTies:
    @pytest.mark.slow
    def test_a_setting_follows_one_that_is_swept(self, here):
        ran = here.sweep("train.batch_size=2,8,32", "train.weight_decay='${root:${ratio:${train.batch_size},8}}'")
        assert [config.train.weight_decay for config in ran] == [0.5, 1, 2]

    def test_one_that_has_no_value_at_some_points_starts_nothing(self, here):
        with pytest.raises(UsageError, match=r"train\.weight_decay cannot be resolved: ratio must not divide by 0"):
            here.sweep("lora.dropout=0,0.1", "lora.r=2,4", "train.weight_decay='${ratio:0.01,${lora.dropout}}'")
        assert here.ran == []
