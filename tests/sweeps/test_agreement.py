"""Settings that follow others: what works in a single run works in a sweep, and a whole sweep has one of some."""

import pytest

from lowrung.errors import UsageError


@pytest.mark.slow
class TestInterpolations:
    def test_data_may_follow_the_seed(self, here):
        ran = here.sweep("data.seed=${seed}", "seed=0,1", "lora.r=4")
        assert [(config.seed, config.data.seed) for config in ran] == [(0, 0), (1, 1)]

    @pytest.mark.parametrize(
        ("overrides", "key", "values"),
        [
            (["lora.alpha='${twice:${.r}}'", "lora.r=4,8"], "lora.alpha", [8, 16]),
            (["data.seed=${lora.r}", "lora.r=4,8"], "data.seed", [4, 8]),
            (["lora.r=${oc.env:RANK},8"], "lora.r", [16, 8]),
            (["data.max_length='${oc.decode:${oc.env:RANK}}'", "lora.r=4"], "data.max_length", [16]),
            (
                ["data.path=${hydra:overrides.task.0}-${hydra:runtime.choices.data}"],
                "data.path",
                ["study=s-docstrings"],
            ),
        ],
    )
    def test_each_trial_has_its_own_value(self, here, monkeypatch, overrides, key, values):
        monkeypatch.setenv("RANK", "16")
        part, name = key.split(".")
        assert [getattr(getattr(config, part), name) for config in here.sweep(*overrides)] == values

    def test_the_clock_stands_still(self, here):
        ran = here.sweep("data.path=${now:%f}", "lora.r=4,8")
        assert len({config.data.path for config in ran}) == 1


@pytest.mark.slow
class TestRefused:
    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["store=a,b"], r"^store must be the same for all trials of a sweep, .* but is a and b for two"),
            (["study=r${lora.r}", "lora.r=2,4"], r"^study must be the same .* r2 and r4"),
            (["track.experiment=x${seed}", "seed=0,1"], r"^track\.experiment must be the same"),
            (["hydra.sweep.dir=x/${lora.r}", "lora.r=2,4"], r"^hydra\.sweep\.dir must be the same"),
            (["seed=${hydra:job.num}"], r"^seed must not follow from a trial's number or folder, but is NUMBER"),
            (["data.path=${hydra:runtime.output_dir}/x"], r"^data\.path must not follow .* is .*/s/NUMBER/x"),
            (["data.max_length=${lora.r}", "lora.r=int(interval(8,16))"], r"^data must not follow from an interval"),
            (["++seed=interval(0,1)"], r"^seed must not be searched"),
            (["verify.tolerances={float16:{mean_kl:1}},{float16:{mean_kl:2}}"] * 2, r"must be swept once, but is 2"),
        ],
    )
    def test_what_the_whole_sweep_shares(self, here, overrides, message):
        with pytest.raises(UsageError, match=message):
            here.sweep(*overrides, n_trials=2)
        assert here.ran == []


class TestTheSameKeyTwice:
    def test_dicts_are_merged_as_hydra_merges_them(self, here):
        one, two = "verify.tolerances={float32:{mean_kl:1}}", "verify.tolerances={float16:{mean_kl:2}}"
        (ran,) = here.sweep(one, two)
        assert (ran.verify.tolerances["float32"].mean_kl, ran.verify.tolerances["float16"].mean_kl) == (1, 2)

    @pytest.mark.slow
    def test_an_added_list_of_seeds_is_no_axis(self, here):
        assert [config.seed for config in here.sweep("lora.r=4", "++seed=0,1")] == [0, 1]
        assert len(here.trials()) == 1
