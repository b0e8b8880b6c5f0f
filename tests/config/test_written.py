"""A config as text: what OmegaConf reads from it is the config."""

import dataclasses

from omegaconf import OmegaConf

from lowrung.config.schema import Config, DataConf, LoraConf, ModelConf
from lowrung.config.written import yaml_of


def test_what_is_read_is_what_was_written():
    odd = [
        *("1e-5", "yes", "on", "null", "~", "0x10", "1_000", ".5", "12:30:00", "", " lead", "a: b # c", "%d", "- x"),
        *("two\nlines\n", "a\ttab", "\N{SNOWMAN}", "\N{GRINNING FACE}", "'quoted'", '"', "\\n"),
    ]
    alike = ["r", "s"]
    written = Config(
        model=ModelConf(path="~/a folder: b"),
        data=DataConf(name="1e-5"),
        lora=LoraConf(peft={"texts": odd, "numbers": [1, 2.5, 1e-7, -0.0, 1e30, True, None], "twice": [alike, alike]}),
        study="no",
    )
    read = OmegaConf.to_container(OmegaConf.create(yaml_of(written)))
    assert read == dataclasses.asdict(written)
    assert [type(value) for value in read["lora"]["peft"]["numbers"]] == [
        int,
        float,
        float,
        float,
        float,
        bool,
        type(None),
    ]


def test_the_defaults_are_written_as_omegaconf_writes_them():
    assert yaml_of(Config()) == OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(Config())))
