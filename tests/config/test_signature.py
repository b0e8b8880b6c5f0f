"""What determines a run's result, and what made it."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import pytest

from lowrung.config import schema, signature
from lowrung.store.layout import ROOT
from tests.composing import changed


class TestDetermining:
    """What counts is in it, and nothing else."""

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("track.kind", "none"),
            ("track.experiment", "other"),
            ("store", "elsewhere"),
            ("study", "mine"),
            ("sweeps", {}),
            ("model.path", "/a/copy/of/it"),
            ("verify.keep_merged", True),
            ("data.path", "/the/rows/are/fingerprinted.jsonl"),
            ("data.seed", 1),
            ("train.save_steps", 0),
            ("model.double_quantization", False),
        ],
    )
    def test_drops_paths_names_and_tracking(self, config, key, value):
        assert changed(config, key, value) != config
        assert signature.determining(changed(config, key, value)) == signature.determining(config)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("seed", 1),
            ("model.dtype", "bfloat16"),
            ("model.quantization", "nf4"),
            ("model.added_tokens", ["<think>"]),
            ("data.max_length", 7),
            ("data.format", "plain"),
            ("data.metrics", ["bleu"]),
            ("lora.r", 9),
            ("lora.alpha", 9.0),
            ("lora.use_rslora", True),
            ("lora.target_modules", ["q_proj"]),
            ("lora.experts", True),
            ("lora.peft", {"exclude_modules": ["q_proj"]}),
            ("train.learning_rate", 1e-5),
            ("train.eval_batch_size", 1),
            ("train.sft", {"adam_beta2": 0.99}),
            ("verify.enabled", False),
            ("verify.prompts", 3),
            ("verify.forgetting", 8),
            ("verify.merge_dtype", "float32"),
        ],
    )
    def test_keeps_what_matters(self, config, key, value):
        assert signature.determining(changed(config, key, value)) != signature.determining(config)

    def test_a_warm_up_in_steps_leaves_the_ratio_unused(self, composer):
        steps = "train.sft.warmup_steps=4"
        one, two, other = (
            signature.determining(composer.config(*texts))
            for texts in ([steps], [steps, "train.warmup_ratio=0.5"], ["train.sft={warmup_steps:5}"])
        )
        assert one == two != other

    def test_the_number_of_ranks_counts_as_that_of_threads_does(self, composer):
        one, two, four, fsdp = (
            signature.determining(composer.config(*texts))
            for texts in (
                [],
                ["train.parallel=ddp", "train.ranks=2"],
                ["train.parallel=ddp", "train.ranks=4"],
                ["train.parallel=fsdp", "train.ranks=2"],
            )
        )
        assert "ranks" not in one["train"]
        assert len({schema.digest(each) for each in (one, two, four, fsdp)}) == 4

    def test_full_fine_tuning_has_no_adapter_whose_settings_count(self, composer):
        full = signature.determining(composer.config("lora=full"))
        assert signature.determining(composer.config("lora=full", "lora.r=64", "lora.init=pissa")) == full
        assert signature.determining(composer.config("lora=full", "train.learning_rate=1e-5")) != full

    @pytest.mark.slow
    def test_only_inits_that_look_at_examples_have_a_number_of_them(self, composer):
        for name, counts in (("default", False), ("pissa", False), ("eva", True), ("lora_ga", True), ("corda", True)):
            more = signature.determining(composer.config(f"lora={name}", "lora.init_examples=9"))
            assert (more != signature.determining(composer.config(f"lora={name}"))) == counts

    def test_without_the_gate_its_settings_do_not_count(self, composer):
        without = composer.config("verify=none")
        for override in ("verify.prompts=3", "verify.merge_dtype=float16", "verify.tolerances.float32.mean_kl=1"):
            assert signature.determining(composer.config("verify=none", override)) == signature.determining(without)

    def test_only_tolerances_that_are_used_count(self, composer):
        def values(*overrides):
            return signature.determining(composer.config("verify.merge_dtype=float16", *overrides))

        bfloat16, float16 = (f"verify.tolerances.{dtype}.mean_kl=1" for dtype in ("bfloat16", "float16"))
        assert values("model.dtype=float32", bfloat16) == values("model.dtype=float32")
        assert values("model.dtype=float32", float16) != values("model.dtype=float32")
        assert values(bfloat16) != values()  # model.dtype=auto is bfloat16 on a GPU

    def test_does_not_change_the_config(self, config):
        before = dataclasses.asdict(config)
        signature.determining(config)
        assert dataclasses.asdict(config) == before

    def test_equal_numbers_are_equal_however_they_are_written(self, composer):
        written = [("lora.alpha=16", "train.learning_rate=3e-4"), ("lora.alpha=16.0", "train.learning_rate=0.0003")]
        first, second = (schema.digest(signature.determining(composer.config(*overrides))) for overrides in written)
        assert first == second


class TestSignature:
    GIVEN: dict[str, Any] = {"model_fingerprint": "m", "data_fingerprint": "d", "threads": 2}  # noqa: RUF012

    def test_is_equal_for_equal_runs(self, composer, config):
        again = composer.config("model=tiny", "track=none", "study=mine", "store=elsewhere")
        assert again != config
        assert signature.of(again, **self.GIVEN) == signature.of(config, **self.GIVEN)

    @pytest.mark.parametrize("given", [{"model_fingerprint": "n"}, {"data_fingerprint": "e"}, {"threads": 1}])
    def test_differs_for_another_model_data_or_thread_count(self, config, given):
        other = signature.of(config, **{**self.GIVEN, **given})
        assert other != signature.of(config, **self.GIVEN)

    @pytest.mark.parametrize("override", ["seed=1", "lora.r=9", "lora.alpha=1", "train.max_steps=3"])
    def test_differs_for_another_config(self, composer, config, override):
        other = signature.of(composer.config("model=tiny", override), **self.GIVEN)
        assert other != signature.of(config, **self.GIVEN)

    def test_differs_for_another_version(self, config, monkeypatch):
        before = signature.of(config, **self.GIVEN)
        monkeypatch.setattr(signature, "versions", lambda packages: dict.fromkeys(packages, "0"))
        assert signature.of(config, **self.GIVEN) != before

    def test_differs_between_cpu_and_gpu(self, config, monkeypatch):
        monkeypatch.setattr(signature, "device_kind", lambda: "cuda")
        on_gpu = signature.of(config, **self.GIVEN)
        monkeypatch.setattr(signature, "device_kind", lambda: "cpu")
        assert signature.of(config, **self.GIVEN) != on_gpu

    @pytest.mark.slow
    def test_is_the_same_in_another_process(self, config):
        script = (
            "from lowrung.config import signature\n"
            "from tests import composing\n"
            "with composing.composer() as composer:\n"
            "    config = composer.config('model=tiny')\n"
            f"print(signature.of(config, **{self.GIVEN}))\n"
        )
        expected = signature.of(config, **self.GIVEN) + "\n"
        for seed in ("1", "2"):
            environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONHASHSEED": seed}
            command = [sys.executable, "-c", script]
            ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            assert ended.stdout == expected


def test_the_environment_is_recorded(monkeypatch):
    record = signature.environment(model_fingerprint="m", data_fingerprint="d", tokens="t", threads=2)
    assert record["versions"].keys() >= {"torch", "peft", "optuna", "mlflow"}
    assert (record["threads"], record["model_fingerprint"], record["data_fingerprint"]) == (2, "m", "d")
    assert all(record.values())
