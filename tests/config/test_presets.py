"""The search space of a preset as overrides."""

import pytest

from lowrung.config import presets
from lowrung.errors import UsageError


def overrides(**params: object) -> list[str]:
    return presets.overrides(params, params)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"x": None}, ["x=null"]),
        ({"x": 4, "y": 1e-4, "z": True}, ["x=4", "y=0.0001", "z=True"]),
        ({"lora.r": "2,4"}, ["lora.r=2,4"]),
        ({"lora.r": [2, 4]}, ["lora.r=2,4"]),
        ({"lora": {"r": "2,4", "dropout": [0, 0.1]}}, ["lora.r=2,4", "lora.dropout=0,0.1"]),
        ({"lora": ["default", "rslora"]}, ["lora=default,rslora"]),
        ({"lora": "default,rslora"}, ["lora=default,rslora"]),
        ({"data.metrics": ["exact_match", "bleu"]}, ["data.metrics=[exact_match,bleu]"]),
        ({"data.metrics": [["exact_match"], []]}, ["data.metrics=[exact_match],[]"]),
        ({"lora.layers_to_transform": [0, 1]}, ["lora.layers_to_transform=[0,1]"]),
        ({"lora.target_modules": [["q_proj"], "all-linear"]}, ["lora.target_modules=[q_proj],all-linear"]),
        ({"lora.rank_pattern": [{"q_proj": 4}, {"q_proj": 8}]}, ["lora.rank_pattern={q_proj:4},{q_proj:8}"]),
        ({"verify.tolerances": {"float32": {"mean_kl": 1}}}, ["verify.tolerances={float32:{mean_kl:1}}"]),
        ({"data.path": ["a b.jsonl", "größe,1"]}, ["data.path='a b.jsonl','größe,1'"]),
        ({"model.revision": "1e3"}, ["model.revision='1e3'"]),
    ],
)
def test_values_of_a_preset(params, expected):
    assert overrides(**params) == expected


def test_an_interpolation_is_left_to_the_trials_unless_it_gives_several_values():
    written = {"lora.r": "${oc.env:RANKS}", "lora.alpha": "${twice:${lora.r}}"}
    resolved = {"lora.r": "2,4", "lora.alpha": 16}
    assert presets.overrides(written, resolved) == ["lora.r=2,4", "lora.alpha='${twice:${lora.r}}'"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"lora": {"r": 2, 4: None}}, r'params\.lora must be settings with values, but 4 has none: .* \{r: "2,4"\}'),
        ({"lora.target_modules": ["q_proj", "v_proj"]}, r"Write 'q_proj,v_proj' for .* or '\[q_proj,v_proj\]' for the"),
        ({"lora.rank_pattern": {"größe": 4}}, r"the key 'größe' cannot be written"),
    ],
)
def test_what_can_be_meant_in_two_ways_is_refused(params, message):
    with pytest.raises(UsageError, match=message):
        overrides(**params)
