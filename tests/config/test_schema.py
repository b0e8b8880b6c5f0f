import dataclasses

import pytest
from omegaconf import OmegaConf

from lowrung.config import schema, structured
from lowrung.config.schema import DataConf, SourceConf


@pytest.mark.parametrize("kind", [v for v in vars(schema).values() if dataclasses.is_dataclass(v)])
def test_every_key_is_explained(kind):
    for field in dataclasses.fields(kind):
        texts = [parent.__doc__ or "" for parent in kind.__mro__ if dataclasses.is_dataclass(parent)]
        assert any(f"    {field.name}: " in text for text in texts)  # Python 3.13 takes off a docstring's indent


class TestResolve:
    def test_gives_dataclasses_without_hydras_node(self, composer, config):
        composed = composer.compose(["model=tiny"])
        assert "hydra" in composed
        assert structured.resolve(composed) == config
        assert "hydra" in composed  # it was only left out

    def test_lists_and_numbers_are_plain(self, composer):
        lora = composer.config("lora.target_modules=[q_proj,v_proj]", "lora.r=4").lora
        assert lora.target_modules == ["q_proj", "v_proj"]
        assert type(lora.target_modules) is list
        assert type(lora.alpha) is float


def test_a_digest_does_not_depend_on_the_order_of_keys():
    assert schema.digest({"a": 1, "b": [1, 2]}) == schema.digest({"b": [1, 2], "a": 1})
    assert schema.digest({"a": [1, 2]}) != schema.digest({"a": [2, 1]})
    assert len(schema.digest(None)) == 16


def test_a_part_of_a_config_counts_by_all_its_fields():
    data = DataConf("mixture", sources=[SourceConf("docstrings")])
    assert schema.digest([data]) == schema.digest([dataclasses.asdict(data)])
    assert schema.digest([data]) != schema.digest([dataclasses.replace(data, sources=[SourceConf("number_words")])])


def test_a_part_of_a_stored_config_is_read_with_its_types(config):
    assert structured.typed(DataConf, dataclasses.asdict(config)["data"]) == config.data
    mixture = {"name": "mixture", "max_length": 8, "sources": [{"name": "file", "path": "a.csv"}]}
    assert structured.typed(DataConf, mixture).sources == [SourceConf("file", "a.csv")]


def test_registering_twice_does_no_harm(composer):
    structured.register()
    assert OmegaConf.create({"r": 3, "alpha": "${twice:${r}}"}).alpha == 6
    assert OmegaConf.create({"a": None, "b": "${first:${a},x}"}).b == "x"
