import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from lowrung.config import schema, signature
from lowrung.config.schema import Config, DataConf, SourceConf
from lowrung.store.layout import ROOT
from tests import composing
from tests.composing import Composer, changed


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing.composer() as made:
        yield made


@pytest.fixture(scope="module")
def config(composer: Composer) -> Config:
    return composer.config("model=tiny")


@pytest.mark.parametrize("kind", [v for v in vars(schema).values() if dataclasses.is_dataclass(v)])
def test_every_key_is_explained(kind):
    for field in dataclasses.fields(kind):
        texts = [parent.__doc__ or "" for parent in kind.__mro__ if dataclasses.is_dataclass(parent)]
        assert any(f"    {field.name}: " in text for text in texts)  # Python 3.13 takes off a docstring's indent


class TestResolve:
    def test_gives_dataclasses_without_hydras_node(self, composer, config):
        composed = composer.compose(["model=tiny"])
        assert "hydra" in composed
        assert schema.resolve(composed) == config
        assert "hydra" in composed  # it was only left out

    def test_lists_and_numbers_are_plain(self, composer):
        lora = composer.config("lora.target_modules=[q_proj,v_proj]", "lora.r=4").lora
        assert lora.target_modules == ["q_proj", "v_proj"]
        assert type(lora.target_modules) is list
        assert type(lora.alpha) is float


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
        assert schema.determining(changed(config, key, value)) == schema.determining(config)

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
            ("train.learning_rate", 1e-5),
            ("train.eval_batch_size", 1),
            ("verify.enabled", False),
            ("verify.prompts", 3),
            ("verify.forgetting", 8),
            ("verify.merge_dtype", "float32"),
        ],
    )
    def test_keeps_what_matters(self, config, key, value):
        assert schema.determining(changed(config, key, value)) != schema.determining(config)

    def test_full_fine_tuning_has_no_adapter_whose_settings_count(self, composer):
        full = schema.determining(composer.config("lora=full"))
        assert schema.determining(composer.config("lora=full", "lora.r=64", "lora.init=pissa")) == full
        assert schema.determining(composer.config("lora=full", "train.learning_rate=1e-5")) != full

    @pytest.mark.slow
    def test_only_inits_that_look_at_examples_have_a_number_of_them(self, composer):
        for name, counts in (("default", False), ("pissa", False), ("eva", True), ("lora_ga", True), ("corda", True)):
            more = schema.determining(composer.config(f"lora={name}", "lora.init_examples=9"))
            assert (more != schema.determining(composer.config(f"lora={name}"))) == counts

    def test_without_the_gate_its_settings_do_not_count(self, composer):
        without = composer.config("verify=none")
        for override in ("verify.prompts=3", "verify.merge_dtype=float16", "verify.tolerances.float32.mean_kl=1"):
            assert schema.determining(composer.config("verify=none", override)) == schema.determining(without)

    def test_only_tolerances_that_are_used_count(self, composer):
        def values(*overrides):
            return schema.determining(composer.config("verify.merge_dtype=float16", *overrides))

        bfloat16, float16 = (f"verify.tolerances.{dtype}.mean_kl=1" for dtype in ("bfloat16", "float16"))
        assert values("model.dtype=float32", bfloat16) == values("model.dtype=float32")
        assert values("model.dtype=float32", float16) != values("model.dtype=float32")
        assert values(bfloat16) != values()  # model.dtype=auto is bfloat16 on a GPU

    def test_does_not_change_the_config(self, config):
        before = dataclasses.asdict(config)
        schema.determining(config)
        assert dataclasses.asdict(config) == before

    def test_equal_numbers_are_equal_however_they_are_written(self, composer):
        written = [("lora.alpha=16", "train.learning_rate=3e-4"), ("lora.alpha=16.0", "train.learning_rate=0.0003")]
        first, second = (schema.digest(schema.determining(composer.config(*overrides))) for overrides in written)
        assert first == second == schema.digest(schema.determining(composer.config()))


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert schema.digest({"a": 1, "b": [1, 2]}) == schema.digest({"b": [1, 2], "a": 1})
    assert schema.digest({"a": [1, 2]}) != schema.digest({"a": [2, 1]})
    assert len(schema.digest(None)) == 16


def test_a_part_of_a_config_counts_by_all_its_fields():
    data = DataConf("mixture", sources=[SourceConf("docstrings")])
    assert schema.digest([data]) == schema.digest([dataclasses.asdict(data)])
    assert schema.digest([data]) != schema.digest([dataclasses.replace(data, sources=[SourceConf("number_words")])])


def test_a_part_of_a_stored_config_is_read_with_its_types(config):
    assert schema.typed(DataConf, dataclasses.asdict(config)["data"]) == config.data
    mixture = {"name": "mixture", "max_length": 8, "sources": [{"name": "file", "path": "a.csv"}]}
    assert schema.typed(DataConf, mixture).sources == [SourceConf("file", "a.csv")]


class TestSignature:
    GIVEN: dict[str, Any] = {"model_fingerprint": "m", "data_fingerprint": "d", "threads": 2}  # noqa: RUF012

    def test_is_equal_for_equal_runs(self, composer, config):
        again = composer.config("model=tiny", "track=none", "study=mine", "store=elsewhere")
        assert again != config
        assert signature.signature(again, **self.GIVEN) == signature.signature(config, **self.GIVEN)

    @pytest.mark.parametrize("given", [{"model_fingerprint": "n"}, {"data_fingerprint": "e"}, {"threads": 1}])
    def test_differs_for_another_model_data_or_thread_count(self, config, given):
        other = signature.signature(config, **{**self.GIVEN, **given})
        assert other != signature.signature(config, **self.GIVEN)

    @pytest.mark.parametrize("override", ["seed=1", "lora.r=9", "lora.alpha=1", "train.max_steps=3"])
    def test_differs_for_another_config(self, composer, config, override):
        other = signature.signature(composer.config("model=tiny", override), **self.GIVEN)
        assert other != signature.signature(config, **self.GIVEN)

    def test_differs_for_another_version(self, config, monkeypatch):
        before = signature.signature(config, **self.GIVEN)
        monkeypatch.setattr(signature, "versions", lambda packages: dict.fromkeys(packages, "0"))
        assert signature.signature(config, **self.GIVEN) != before

    def test_differs_between_cpu_and_gpu(self, config, monkeypatch):
        monkeypatch.setattr(signature, "_device_kind", lambda: "cuda")
        on_gpu = signature.signature(config, **self.GIVEN)
        monkeypatch.setattr(signature, "_device_kind", lambda: "cpu")
        assert signature.signature(config, **self.GIVEN) != on_gpu

    @pytest.mark.slow
    def test_is_the_same_in_another_process(self, config):
        script = (
            "from lowrung.config import signature\n"
            "from tests import composing\n"
            "with composing.composer() as composer:\n"
            "    config = composer.config('model=tiny')\n"
            f"print(signature.signature(config, **{self.GIVEN}))\n"
        )
        expected = signature.signature(config, **self.GIVEN) + "\n"
        for seed in ("1", "2"):
            environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "PYTHONHASHSEED": seed}
            command = [sys.executable, "-c", script]
            ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            assert ended.stdout == expected


def test_registering_twice_does_no_harm(composer):
    schema.register()
    assert OmegaConf.create({"r": 3, "alpha": "${twice:${r}}"}).alpha == 6
    assert OmegaConf.create({"a": None, "b": "${first:${a},x}"}).b == "x"


def test_the_environment_is_recorded(monkeypatch):
    record = signature.environment(model_fingerprint="m", data_fingerprint="d", tokens="t", threads=2)
    assert record["versions"].keys() >= {"torch", "peft", "optuna", "mlflow"}
    assert (record["threads"], record["model_fingerprint"], record["data_fingerprint"]) == (2, "m", "d")
    assert all(record.values())
