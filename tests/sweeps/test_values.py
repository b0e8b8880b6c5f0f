"""Lists, dicts, groups, null and texts as values of an axis: from where they are written to the run and the table."""

import json
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lowrung.config import presets
from lowrung.config.schema import Config
from lowrung.search.space import parse

CASES: list[tuple[str, str, str, list[Any], list[str]]] = [
    # what is typed, in params as YAML, the setting, what runs get, and what the leaderboard shows
    ("lora.target_modules=[q_proj],[q_proj,v_proj]", "lora.target_modules: [[q_proj], [q_proj, v_proj]]",
     "lora.target_modules", [["q_proj"], ["q_proj", "v_proj"]], ["[q_proj]", "[q_proj,v_proj]"]),
    ("lora.target_modules=all-linear,[q_proj]", "lora.target_modules: [all-linear, [q_proj]]",
     "lora.target_modules", ["all-linear", ["q_proj"]], ["all-linear", "[q_proj]"]),
    ("lora=default,dora", "lora: [default, dora]", "lora.use_dora", [False, True], ["default", "dora"]),
    ("lora.rank_pattern={q_proj:4},{q_proj:8}", "lora.rank_pattern: [{q_proj: 4}, {q_proj: 8}]",
     "lora.rank_pattern", [{"q_proj": 4}, {"q_proj": 8}], ["{q_proj:4}", "{q_proj:8}"]),
    ("train.sft.optim_args=null,'a, b'", "train.sft.optim_args: \"null,'a, b'\"",
     "train.sft.optim_args", [None, "a, b"], ["null", "'a, b'"]),
    ("train.sft.optim_args='a=1,b=2','c=\"x\"','it\\'s'", r"""train.sft.optim_args: "'a=1,b=2','c=\"x\"','it\\'s'" """,
     "train.sft.optim_args", ["a=1,b=2", 'c="x"', "it's"], ["'a=1,b=2'", "'c=\"x\"'", "'it\\'s'"]),
    ("lora.layers_to_transform=null,[0],[0,1]", "lora.layers_to_transform: [null, [0], [0, 1]]",
     "lora.layers_to_transform", [None, [0], [0, 1]], ["null", "[0]", "[0,1]"]),
    ("train.gradient_checkpointing=true,false", "train.gradient_checkpointing: [true, false]",
     "train.gradient_checkpointing", [True, False], ["True", "False"]),
]  # fmt: skip


def of(config: Config, setting: str) -> Any:
    found: Any = config
    for name in setting.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return found


@pytest.mark.parametrize(("typed", "written", "setting", "values", "shown"), CASES)
def test_params_mean_what_is_typed(typed, written, setting, values, shown):
    params: Any = OmegaConf.to_container(OmegaConf.create(written))
    overrides = presets.overrides(params, params)
    (axis,) = parse(overrides, OverridesParser.create()).choices
    (other,) = parse([typed], OverridesParser.create()).choices
    assert (axis.key, axis.texts, axis.values) == (other.key, other.texts, other.values)
    assert list(axis.texts) == shown


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "written", "setting", "values", "shown"), CASES[3:7])
def test_each_reaches_its_run_and_the_leaderboard(here, typed, written, setting, values, shown):
    ran = here.sweep(typed)
    assert [of(config, setting) for config in ran] == values
    key = typed.partition("=")[0]
    board = {row["trial"]: row["point"][key] for row in json.loads(here.study.leaderboard.read_text())}
    assert [board[number] for number in range(len(values))] == shown
    assert here.sweep(typed) == []
