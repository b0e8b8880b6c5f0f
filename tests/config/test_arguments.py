"""The command line before Hydra reads it."""

from pathlib import Path

import pytest
from hydra.types import RunMode

from lowrung.config import arguments, schema, structured
from lowrung.config.hydra_app import hydra_app
from lowrung.errors import UsageError
from tests.composing import Composer

RECORDED = Path("multirun/s/1/.hydra")


@pytest.fixture
def recorded(composer: Composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job's config as Hydra leaves it: unresolved, without Hydra's node."""
    from omegaconf import OmegaConf

    monkeypatch.chdir(tmp_path)
    RECORDED.mkdir(parents=True)
    composed = composer.compose(["model=tiny", "lora.r=6", "study=s"])
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    OmegaConf.save(ours, RECORDED / "config.yaml")
    return tmp_path / RECORDED


def repeated(*typed: str) -> schema.Config:
    """What a command makes of it; its overrides are put behind the two options."""
    made = arguments.prepared(["--config-path", str(RECORDED), "--config-name", "config", *typed])
    with hydra_app(config_path=made[1]) as hydra:
        return structured.resolve(hydra.config_loader.load_configuration("config", made[4:], RunMode.RUN))


class TestRecorded:
    @pytest.mark.slow
    def test_a_job_is_repeated(self, composer, recorded):
        assert repeated() == composer.config("model=tiny", "lora.r=6", "study=s")
        assert repeated("lora.r=8") == composer.config("model=tiny", "lora.r=8", "study=s")

    def test_it_has_lowrungs_sweeper_and_folders(self, recorded):
        made = arguments.prepared(["--config-path", str(RECORDED), "hydra/launcher=basic"])
        assert made[:2] == ["--config-path", str(recorded)]
        assert "hydra/sweeper=lowrung" in made
        assert "hydra/launcher=local" not in made
        assert any(text.startswith("hydra.sweep.dir=") and "first:" in text for text in made)

    @pytest.mark.parametrize("form", ["--config-path={}", "-cp={}"])
    def test_it_is_found_from_the_working_folder(self, recorded, form):
        assert arguments.prepared([form.format(RECORDED)])[0] == form.format(recorded)

    @pytest.mark.slow
    def test_what_an_older_version_did_not_have_is_the_schemas(self, composer, recorded):
        file = recorded / "config.yaml"
        file.write_text(file.read_text().replace("  init_examples: 128\n", ""))
        assert repeated() == composer.config("model=tiny", "lora.r=6", "study=s")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("lora:\n", "lora:\n  foo: 1\n", "'foo' not in 'LoraConf'"),
            ("  r: 6\n", "  r: six\n", "'six' of type 'str' could not be converted to Integer"),
            ("  eval_batch_size: 16\n", "", "missing mandatory value: eval_batch_size"),
        ],
    )
    def test_what_does_not_fit_is_an_error(self, recorded, old, new, message):
        file = recorded / "config.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(Exception, match=message):
            repeated()

    def test_a_group_has_no_choice(self, recorded):
        with pytest.raises(UsageError, match=r"lora must be set by settings, such as lora\.NAME=VALUE"):
            repeated("lora=rslora")

    def test_in_a_folder_that_only_adds_it_would_not_be_used(self, recorded):
        with pytest.raises(UsageError, match=rf"Write --config-path {RECORDED} --config-name config"):
            arguments.prepared(["--config-dir", str(RECORDED), "--config-name", "config"])


def test_a_root_config_of_ones_own_that_builds_on_lowrungs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("my/mine.yaml").write_text("defaults: [config, _self_]\nseed: 7\n")
    typed = ["--config-dir", "my", "--config-name", "mine", "lora.r=2"]
    assert arguments.prepared(typed) == [*typed, "hydra/sweeper=lowrung", "hydra/launcher=local"]


def test_a_folder_that_is_none():
    with pytest.raises(UsageError, match="--config-path must be a folder with configs, but /none is not a folder"):
        arguments.prepared(["--config-path", "/none"])


def test_anything_else_stays():
    assert arguments.prepared(["-m", "lora.r=2,4", "study=1e3"]) == ["-m", "lora.r=2,4", "study='1e3'"]
