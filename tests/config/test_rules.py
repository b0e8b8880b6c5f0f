"""Bad input: what is wrong, with which value, and what to do instead; all of it at once."""

import copy
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, Node, OmegaConf, StringNode, ValidationError

from lowrung.config import commandline, keys, rules
from lowrung.config.schema import Config
from tests.composing import LORAS, SWEEPS, Composer, changed


@pytest.fixture(scope="module")
def config(composer: Composer) -> Config:
    return composer.config()


LEAST = {
    "seed": 0,
    "data.train_size": 1,
    "data.eval_size": 1,
    "data.max_length": 8,
    "lora.r": 1,
    "train.max_steps": 1,
    "train.batch_size": 1,
    "train.eval_batch_size": 1,
    "train.gradient_accumulation_steps": 1,
    "train.eval_steps": 1,
    "train.save_total_limit": 1,
    "train.early_stopping": 1,
    "train.max_grad_norm": 0,
    "train.weight_decay": 0,
    "verify.prompts": 1,
    "verify.forgetting": 0,
    "verify.new_tokens": 1,
}

ONE_OF = {
    "model.dtype": ("float23", "float32"),
    "model.quantization": ("int4", "int8"),
    "model.attn_implementation": ("flash", None),
    "data.name": ("docstring", "docstrings"),
    "data.format": ("chatml", "chat"),
    "data.on_bad_rows": ("drp", "drop"),
    "data.metrics": ("blue", "bleu"),
    "lora.method": ("ia3", None),
    "lora.init": ("pisa", "pissa"),
    "lora.bias": ("some", "none"),
    "train.lr_scheduler_type": ("cosin", "cosine"),
    "verify.merge_dtype": ("int8", None),
    "track.kind": ("wandb", None),
}
"""For each choice a value that is none, and the one that was meant, if any."""

OTHERS = [
    ("store", "", "must name the folder", "is empty", "store=runs"),
    *(("study", name, "255 bytes at most", repr(name), "hydra.sweep.dir") for name in ("a/b", "..", "ü" * 128)),
    *(("lora.dropout", value, "in [0, 1)", str(value), "Use 0") for value in (1.0, -0.1, float("nan"))),
    ("lora.target_modules", [], "a list such as [q_proj,v_proj]", "[]", ""),
    ("lora.target_modules", [1, 2], "a list such as [q_proj,v_proj]", "[1, 2]", ""),
    ("lora.target_modules", "(q_proj", "a valid regular expression", "'(q_proj'", "missing )"),
    ("lora.init", "pissa_niter_0", "must be one of default, ", "'pissa_niter_0'", "Did you mean pissa_niter_16?"),
    *(("lora.trainable_token_indices", value, "each once", str(value), "") for value in ([3, 3], [-1])),
    *(
        ("model.added_tokens", value, "each once", str(value), "")
        for value in (["<think>", ""], ["<think>", "<think>"])
    ),
    ("lora.rank_pattern", {"q_proj": 0}, "q_proj must be a rank of at least 1", "0", ""),
    ("lora.rank_pattern", {"q_proj": 1.5}, "q_proj must be a rank of at least 1", "1.5", ""),
    ("lora.alpha_pattern", {"q_proj": -1}, "q_proj must be a number above 0", "-1", ""),
    ("lora.rank_pattern", "{q_proj}", "pairs of a module's name and a number", "'{q_proj}'", "={q_proj:16}'"),
    ("lora.layers_to_transform", [-1], "at least 0", "-1", ""),
    ("model.device_map", "gpu", "null or auto", "'gpu'", ""),
    ("data.eval_size", None, "how many examples are held out", "null", "data.eval_path"),
    ("data.date", "yesterday", "must be a day as ISO 8601 writes it", "yesterday", "2026-01-01"),
    ("data.chat_template_kwargs", "thinking", "must be variables of the chat template by name", "thinking", "{enable"),
    ("data.eval_path", "eval.jsonl", "needs data.name=file", "docstrings", ""),
    ("data.eval_split", "test", "needs data.name=hub", "docstrings", ""),
    ("data.name", "file", "data.path must name the file", "None", "data.path=answers.jsonl"),
    ("data.name", "mixture", "data.sources must list what is mixed", "empty", "data=mixture"),
    ("train.max_steps", None, "must say how long to train", "both are null", ""),
    ("train.epochs", 2.0, "Only one of train.max_steps (20)", "train.epochs (2)", "Add train.max_steps=null"),
    ("train.save_steps", 15, "a multiple of train.eval_steps, 10", "15", ""),
    ("train.warmup_ratio", 1.5, "in [0, 1]", "1.5", "a share of the steps"),
    ("train.weight_decay", float("nan"), "at least 0", "nan", ""),
]
"""Values that break a rule of their own: the key, the value, and what the message says of rule, value and remedy."""


class TestRules:
    """Each rule, with the value that breaks it and no other problem beside it."""

    @pytest.mark.parametrize("key", LEAST)
    def test_a_number_has_a_least_value(self, config, key):
        least = LEAST[key]
        assert rules.problems(changed(config, key, least)) == []
        (problem,) = rules.problems(changed(config, key, least - 1))
        assert problem.startswith(f"{key} must be at least {least}, but is {least - 1}")

    @pytest.mark.parametrize("key", ["lora.alpha", "lora.lora_plus_ratio", "train.learning_rate"])
    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
    def test_a_number_is_above_zero(self, config, key, value):
        assert rules.problems(changed(config, key, value)) == [f"{key} must be above 0, but is {value}."]

    @pytest.mark.parametrize("key", ONE_OF)
    def test_a_choice_is_one_of_those_that_are_listed(self, config, key):
        value, meant = ONE_OF[key]
        (problem,) = rules.problems(changed(config, key, [value] if key == "data.metrics" else value))
        rule, _, rest = problem.partition(", but is ")
        assert rule.startswith(f"{key} must be one of ")
        assert rest == f"{value!r}." + (f" Did you mean {meant}?" if meant else "")
        assert meant is None or meant in rule

    @pytest.mark.parametrize(("key", "value", "rule", "shown", "remedy"), OTHERS)
    def test_a_broken_rule_is_one_message_of_rule_value_and_remedy(self, config, key, value, rule, shown, remedy):
        (problem,) = rules.problems(changed(config, key, value))
        assert key.partition(".")[0] in problem
        assert rule in problem
        after = problem.partition(rule)[2]
        assert shown in after
        assert remedy in after

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("lora.dropout", 0.0),
            ("lora.init", "pissa_niter_2"),
            ("lora.target_modules", ["q_proj"]),
            ("lora.peft", {"anything": "is looked at with the library itself"}),
            ("train.learning_rate", 1e20),  # it may diverge; that is a result
            ("train.warmup_ratio", 1.0),
            ("train.warmup_ratio", 0.0),
        ],
    )
    def test_what_is_just_allowed_passes(self, config, key, value):
        assert rules.problems(changed(config, key, value)) == []

    @pytest.mark.parametrize(
        ("overrides", "problem"),
        [
            (["lora=full", "model.quantization=nf4"], "lora=full trains all weights, but model.quantization=nf4"),
            (["lora=pissa", "model.quantization=int8"], "lora.init=pissa takes a part out of the base's weights, but"),
            (["lora=pissa_niter", "model.quantization=nf4"], "lora.init=pissa_niter_16 takes a part out of the base's"),
            (
                ["lora=orthogonal", "model.quantization=nf4"],
                "lora.init=orthogonal makes A and B in the dtype of the base's weights",
            ),
            (
                ["lora=orthogonal", "lora.r=3"],
                "lora.init=orthogonal needs even ranks, half for A and half for B, but lora.r is 3.",
            ),
            (
                ["lora=orthogonal", "lora.rank_pattern={q_proj:5}"],
                "lora.init=orthogonal needs even ranks, half for A and half for B, but lora.rank_pattern.q_proj is 5.",
            ),
            (
                ["lora=mica", "model.quantization=int8"],
                "lora.init=mica makes A and B in the dtype of the base's weights",
            ),
            (["lora=mica", "lora.use_dora=true"], "lora.init=mica must be without DoRA, but lora.use_dora is true"),
            (["lora=mica", "lora.lora_plus_ratio=4"], "lora.lora_plus_ratio must be null with lora.init=mica"),
            (["lora=loftq"], "lora.init=loftq gives back what quantising took from the base, but model.quantization"),
            (
                ["lora=loftq", "model.quantization=nf4", "lora.use_dora=true"],
                "lora.init=loftq must be without DoRA, but lora.use_dora is true: DoRA's magnitudes",
            ),
            (
                ["lora.experts=true", "lora.dropout=0.1"],
                "lora.experts=true needs lora.dropout=0, since no input is there",
            ),
            (["lora.experts=true", "lora=dora"], "lora.experts=true needs plain LoRA, but lora.use_dora is true"),
            (
                ["lora.peft.target_parameters=[experts.down_proj]", "lora=pissa"],
                "lora.peft.target_parameters needs lora.init default or gaussian, but lora.init is pissa",
            ),
            (
                ["lora=pissa", "lora.peft.use_bdlora={nblocks:2}"],
                "lora.init=pissa starts with whole matrices, which lora.peft.use_bdlora holds in blocks",
            ),
            (
                ["model.quantization=nf4", "lora.peft.velora_config={num_groups:8}"],
                "lora.peft.velora_config needs layers that are not quantised, but model.quantization is nf4",
            ),
            (["lora=eva", "lora.init_examples=0"], "lora.init_examples must be at least 1, but is 0."),
            (["lora=full", "model.dtype=float16"], "lora=full needs model.dtype float32 or bfloat16"),
            (
                ["train.early_stopping=2", "train.save_steps=20"],
                "train.early_stopping needs a checkpoint at each evaluation",
            ),
            (
                ["lora.target_modules='.*q_proj'", "lora.layers_to_transform=[0]"],
                "lora.layers_to_transform needs lora.target_modules to be a preset or a list",
            ),
            (["verify=none", "verify.forgetting=48"], "verify.forgetting=48 needs the gate, which measures it, but"),
            (["data=mixture", "data.sources=[{name:file}]"], "data.sources[0].path must name the file, but is None."),
            (["data=mixture", "data.sources=[{name:nothing}]"], "data.sources[0].name must be one of docstrings,"),
        ],
    )
    def test_settings_that_exclude_each_other(self, composer, overrides, problem):
        (found,) = rules.problems(composer.config(*overrides))
        assert found.startswith(problem)

    @pytest.mark.parametrize(
        "override",
        [
            "lora.rank_pattern={q_proj:16}",
            """lora.rank_pattern='{"q_proj": 16, "layers.0.mlp.up_proj": 2}'""",
            "lora.target_modules=attention",
            "lora.layers_to_transform=[0,1]",
            "data=mixture",
            "data.metrics=[rouge,my_module.my_score]",
        ],
    )
    def test_what_the_command_line_can_say(self, composer, override):
        assert rules.problems(composer.config(override)) == []

    @pytest.mark.parametrize(
        ("overrides", "needed"),
        [
            (["model.dtype=float32"], ["float16", "float32"]),
            (["model.dtype=float32", "verify.merge_dtype=float32"], ["float32"]),
            (["model.dtype=auto"], ["bfloat16", "float16", "float32"]),  # bfloat16 on a GPU
            (["model.dtype=float32", "model.quantization=nf4"], ["bfloat16", "float16", "float32"]),
        ],
    )
    def test_tolerances_are_needed_for_all_precisions_that_are_compared(self, composer, overrides, needed):
        problems = rules.problems(changed(composer.config(*overrides), "verify.tolerances", {}))
        assert problems == [f"verify.tolerances must have an entry for {dtype}, but has none." for dtype in needed]

    def test_one_mistake_is_one_message_though_alpha_follows_r(self, composer):
        assert len(rules.problems(composer.config("lora.r=0"))) == 1
        assert len(rules.problems(composer.config("lora.r=-3"))) == 1

    def test_all_rules_speak_at_once(self, config):
        broken = config
        for key in ("seed", "lora.r", "train.max_steps", "verify.prompts"):
            broken = changed(broken, key, -1)
        named = [problem.split()[0] for problem in rules.problems(broken)]
        assert sorted(named) == ["lora.r", "seed", "train.max_steps", "verify.prompts"]

    def test_a_key_that_was_added_with_a_plus_is_refused(self, composer):
        (lora, root) = sorted(rules.problems(composer.config("+lora.rank=3", "+epochs=2")), reverse=True)
        assert lora == "lora.rank is not a setting. Did you mean lora.r?"
        assert root.startswith("epochs is not a setting.")


@pytest.fixture
def problems(composer) -> Any:
    def problems_of(*overrides: str) -> list[str]:
        return commandline.problems(overrides, composer.compose, composer.parser)

    return problems_of


class TestOverrides:
    """What composes and what does not, each in the user's spelling."""

    CASES = (
        ("lora.r=0", "lora.r must be at least 1, but is 0"),
        ("lora.r=abc", "lora.r must be a whole number, but is 'abc'."),
        ("lora.r=4.5", "lora.r must be a whole number, but is '4.5'."),
        ("train.learning_rate=fast", "train.learning_rate must be a number, but is 'fast'."),
        ("lora.use_rslora=maybe", "lora.use_rslora must be true or false, but is 'maybe'."),
        ("hydra.sweeper.n_trials=ten", "hydra.sweeper.n_trials must be a whole number, but is 'ten'."),
        ("hydra.sweeper.n_trials=1,2", "hydra.sweeper.n_trials must have one value"),
        ("lora=rslra", f"lora must be one of {LORAS}, but is 'rslra'. Did you mean rslora?"),
        ("sweeps=rank_lader", f"sweeps must be one of {SWEEPS}, but is 'rank_lader'. Did you mean rank_ladder?"),
        ("~seed", "No setting may be deleted, but `~seed` deletes seed. Leave that out; `seed=...` sets it."),
        ("~lora", "No setting may be deleted, but `~lora` deletes lora. Leave that out; `lora=...` sets it."),
        ("lora.r=8,", "`lora.r=8,` cannot be read: it ends where a value should follow. Quote values"),
        ("lora.r=???", "lora.r must have a value, but has none. Write lora.r=VALUE"),
        (
            "lora.alpha=${no.such}",
            "lora.alpha cannot be resolved: no.such is not a setting. `lowrung train --help` lists",
        ),
        ("train.sft=3", "train.sft must be a mapping such as {name:value}, but is '3'."),
        ("lora.peft=[a]", "lora.peft must be a mapping such as {name:value}, but is '[a]'."),
        ("train.adam_beta2=0.9", "train.adam_beta2 is not a setting. Did you mean train.sft.adam_beta2?"),
        ("lora=4", "`lora=4` is refused: Config group override must be a string or a list. Got int"),
        *(
            (text, f"`{text}` must be a list of single values, or one interval, range or glob alone. Write out a range")
            for text in ("lora.r=2,int(interval(4,8))", "lora.r=2,range(4,8)", "lora=glob(r*),dora")
        ),
        *(
            (f"{key}=4,8" if key == "lora.rank" else f"{key}=3", f"{key} is not a setting. Did you mean {meant}?")
            for key, meant in (
                ("lora.rank", "lora.r"),
                ("lr", "train.learning_rate"),
                ("learning_rate", "train.learning_rate"),
                ("train.learning_rat", "train.learning_rate"),
                ("sweeper.n_trials", "hydra.sweeper.n_trials"),
                ("hydra/sweeper/prunner", "hydra/sweeper/pruner"),
                ("lor", "lora"),
            )
        ),
        ("+lora.alfa=4", "lora.alfa is not a setting. Did you mean lora.alpha?"),
        ("zzz=1", "zzz is not a setting. `"),
    )

    @pytest.mark.slow
    def test_all_problems_come_at_once(self, problems):
        found = problems(*(override for override, _ in self.CASES))
        assert len(found) == len(self.CASES)
        for _, beginning in self.CASES:
            assert [problem for problem in found if problem.startswith(beginning)], beginning

    def test_settings_of_a_part_are_known_beside_its_choice(self, problems):
        part = ["hydra/sweeper/pruner=asha", "hydra.sweeper.pruner.reduction_factor=3"]
        assert problems(*part) == []
        assert problems(*part, "lora.rank=4") == ["lora.rank is not a setting. Did you mean lora.r?"]
        (problem,) = problems("hydra.sweeper.pruner.reduction_factor=3")
        assert "is not a setting" in problem

    @pytest.mark.parametrize("override", ["lora.r=(4", "lora.r=4,", "lora.r"])
    def test_what_cannot_be_read_is_quoted(self, problems, override):
        (problem,) = problems(override)
        assert problem.startswith(f"`{override}` cannot be read: ")

    def test_each_value_of_a_list_is_looked_at(self, problems):
        found = problems(
            "lora.r=0,4,abc", "lora.rank=4", "lora=rslra,default", "train.max_steps=0", "train.batch_size=2"
        )
        assert sorted(found) == [
            f"lora must be one of {LORAS}, but is 'rslra'. Did you mean rslora?",
            "lora.r must be a whole number, but is 'abc'.",
            "lora.r must be at least 1, but is 0: a rank of 0 trains nothing.",
            "lora.rank is not a setting. Did you mean lora.r?",
            "train.max_steps must be at least 1, but is 0.",
        ]

    @pytest.mark.slow
    def test_a_value_anywhere_in_the_grid_is_found(self, problems):
        found = problems("lora.r=4,8,0", "train.learning_rate=1e-3,0", "train.batch_size=range(1,3)")
        assert [problem.split()[0] for problem in found] == ["lora.r", "train.learning_rate"]

    @pytest.mark.slow
    def test_both_ends_of_an_interval_are_looked_at(self, problems):
        assert problems("train.warmup_ratio=interval(0,1)") == []
        (problem,) = problems("train.warmup_ratio=interval(0.5,1.5)")
        assert problem.startswith("train.warmup_ratio must be in [0, 1], but is 1.5.")

    def test_an_interval_of_whole_numbers_has_a_remedy(self, problems):
        assert problems("lora.r=int(interval(2,64))") == []
        low, high = problems("lora.r=interval(2,64)")
        remedy = "Write int(interval(2,64)) to search whole numbers."
        assert low == f"lora.r must be a whole number, but is '2.0'. {remedy}"
        assert high == f"lora.r must be a whole number, but is '64.0'. {remedy}"

    @pytest.mark.parametrize(
        "overrides",
        [
            [],
            ["lora.r=4,8", "train.learning_rate=tag(log,interval(1e-5,1e-3))"],
            pytest.param(["lora=glob(*,exclude=loftq)", "data=number_words,docstrings"], marks=pytest.mark.slow),
            ["lora.target_modules=[q_proj],[q_proj,v_proj]"],
            ["lora.alpha='${lora.r}'"],
            ["++lora.r=4", "hydra.sweeper.n_trials=3"],
        ],
    )
    def test_what_is_right_passes(self, problems, overrides):
        assert problems(*overrides) == []

    def test_what_else_a_config_must_hold_to_is_asked(self, composer):
        overrides = ["lora.r=4,8"]
        asked: list[int] = []

        def hold(config: Config) -> list[str]:
            asked.append(config.lora.r)
            return ["the same"]

        assert commandline.problems(overrides, composer.compose, composer.parser, hold) == ["the same"]
        assert asked == [4, 8]


@pytest.mark.usefixtures("composer")  # which registers the schema
class TestExplain:
    """What a command ends with when Hydra itself refuses it."""

    def test_only_hydras_errors_are_explained(self):
        assert commandline.explain(OSError("x"), ["lora.r=abc"]) is None
        assert commandline.explain(ValueError("not Hydra's"), ["lora.r=4"]) is None

    @pytest.mark.slow
    def test_all_problems_rather_than_hydras_first(self):
        error = HydraException("Hydra names one")
        assert commandline.explain(error, ["lora.r=abc", "lora.rank=3", "--cfg", "job"]) == [
            "lora.r must be a whole number, but is 'abc'.",
            "lora.rank is not a setting. Did you mean lora.r?",
        ]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("option", "text", "problem"),
        [
            ("--config-dir={}", "# @package _global_\ntrain:\n  max_steps: 40\n", None),
            (
                "hydra.searchpath=[file://{}]",
                "# @package _global_\ntrain:\n  max_stepz: 40\n",
                "train.max_stepz, in mine=x, is not a setting. Did you mean train.max_steps?",
            ),
            (
                "--config-dir={}",
                "train:\n  max_steps: 40\n",
                "mine=x must set settings of lowrung, but its file sets them below 'mine', which is none. Write"
                " `# @package _global_` as its first line.",
            ),
            (
                "hydra.searchpath=[file://{}]",
                "# @package _global_\nlora:\n  r: 2,4\n",
                "lora.r, in mine=x, must be a whole number, but is '2,4'. The values of a sweep go below"
                " hydra.sweeper.params, as `lora.r: 2,4`.",
            ),
        ],
    )
    def test_a_file_of_the_users_is_composed_too(self, tmp_path, option, text, problem):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "x.yaml").write_text(text)
        found = commandline.explain(HydraException("x"), [option.format(tmp_path), "+mine=x", "lora.rank=4"])
        assert found == [*([problem] if problem else []), "lora.rank is not a setting. Did you mean lora.r?"]

    @pytest.mark.slow
    def test_how_a_name_is_quoted(self):
        (found,) = commandline.explain(HydraException("x"), ["study=größe"]) or []
        assert found.endswith("""Quote values with special characters: "study='größe'\"""")

    @pytest.mark.slow
    def test_several_values_need_the_flag(self):
        found = commandline.explain(HydraException("sweep"), ["lora.r=2,4", "lora=default"])
        assert found == [
            "`lora.r=2,4` has several values. Add -m to run a trial for each, or brackets to mean one list."
        ]

    @pytest.mark.parametrize("asking", ["-m", "sweeps=rank_ladder"])
    @pytest.mark.slow
    def test_a_sweep_may_have_several_values(self, asking):
        found = commandline.explain(HydraException("other"), [asking, "lora.r=2,4", "lora.rank=3"])
        assert found == ["lora.rank is not a setting. Did you mean lora.r?"]

    @pytest.mark.slow
    def test_overrides_that_fit_alone_but_not_together_give_hydras_words(self, composer):
        arguments = ["~verify.tolerances.float16", "verify.tolerances.float16={}"]
        with pytest.raises(HydraException) as caught:
            composer.compose(arguments)
        (problem,) = commandline.explain(caught.value, arguments) or []
        assert problem == "Could not override 'verify.tolerances.float16'."

    @pytest.mark.slow
    @pytest.mark.parametrize("error", [HydraException("Could not override 'seed'."), ValueError("seed has no value")])
    def test_what_was_taken_away_is_named(self, error):
        (problem,) = commandline.explain(error, ["~seed", "seed=4"]) or []
        assert problem.startswith("No setting may be deleted, but `~seed` deletes seed.")


def test_the_spellings_name_settings(config):
    for name in keys.SPELLINGS.values():
        group, field, *_ = name.split(".")  # what is in train.sft is TRL's to know
        assert field in {known.name for known in dataclasses.fields(getattr(config, group))}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """The settings below a node, with their dotted names."""
    for name in node:
        held = node._get_node(name)
        if isinstance(held, DictConfig) and not (held._is_none() or held._is_missing()):
            yield from _leaves(held, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", held


@pytest.fixture(scope="module")
def settings(composer: Composer) -> dict[str, Node]:
    """Each setting's node: of the schema, the sweeper with all that it has a choice of, and the launchers."""
    root = OmegaConf.masked_copy(composer.compose(), [field.name for field in dataclasses.fields(Config)])
    found = dict(_leaves(root))
    parts: list[tuple[str, Any]] = [("hydra", ConfigStore.instance().repo["hydra"])]
    while parts:
        where, part = parts.pop()
        if isinstance(part, dict):
            parts += [(f"{where}/{name}", one) for name, one in part.items()]
        elif part.provider == "lowrung":
            found |= _leaves(part.node, f"{where}.")
    assert {"seed", "lora.use_dora", "hydra/sweeper/lowrung.yaml.dry_run"} <= found.keys()
    return found


def _takes(node: Any, value: Any) -> bool:
    try:
        node._set_value(value)
    except ValidationError:
        return False
    return True


class TestKinds:
    """Each setting of the schema takes what it is, and nothing that OmegaConf would turn into that."""

    WRONG = (
        (BooleanNode, (2, 1, 0, -1, 1.0, "1", "maybe", "", [True]), "must be true or false, but is "),
        (IntegerNode, (1.0, 2.5, True, "x", "1.0", "", [1]), "must be a whole number, but is "),
        (FloatNode, (True, "x", "", [1]), "must be a number, but is "),
        (StringNode, (["a"], {"a": 1}), "must be one text, but is "),
    )

    @pytest.mark.parametrize(("kind", "wrong"), [(kind, wrong) for kind, wrong, _ in WRONG])
    def test_nothing_else_is_turned_into_it(self, settings, kind, wrong):
        known = {key: node for key, node in settings.items() if isinstance(node, kind)}
        assert known
        taken = [(key, value) for key, node in known.items() for value in wrong if _takes(node, value)]
        assert taken == []

    @pytest.mark.parametrize(("word", "meant"), [("yes", True), ("OFF", False), ("n", False), ("True", True)])
    def test_what_yaml_reads_as_true_or_false_is_that(self, composer, word, meant):
        assert composer.config(f"lora.use_dora={word}").lora.use_dora is meant

    def test_a_number_with_an_exponent_may_be_a_text(self, composer):
        assert composer.config("train.learning_rate='1e-4'").train.learning_rate == 1e-4

    @pytest.mark.slow
    def test_the_message_says_what_it_must_be(self, problems, settings):
        own = {key: node for key, node in settings.items() if "/" not in key}
        asked = {
            f"{key}={str(wrong[0]).replace(' ', '')}": f"{key} {rule}"
            for key, node in own.items()
            for kind, wrong, rule in self.WRONG
            if isinstance(node, kind)
        }
        found = problems(*asked)
        assert len(asked) > 60
        assert [one for one, rule in asked.items() if not any(each.startswith(rule) for each in found)] == []

    @pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
    def test_numbers_are_finite(self, config, settings, value):
        for key in (key for key, node in settings.items() if isinstance(node, FloatNode) and "/" not in key):
            if value == "inf" and key.startswith("verify.tolerances."):
                continue  # no limit
            *path, name = key.split(".")
            broken = copy.deepcopy(config)
            parent: Any = functools.reduce(_part, path, broken)
            setattr(parent, name, float(value))
            assert [problem for problem in rules.problems(broken) if problem.startswith(f"{key} must be ")], key

    @pytest.mark.parametrize(
        ("override", "problem"),
        [
            ("train.packing=null", "train.packing must have a value, but is null. Leave it out to keep its default."),
            ("verify.enabled=${seed}", "verify.enabled must be true or false, but ${seed} is '0'."),
            ("hydra.sweeper.dry_run=2", "hydra.sweeper.dry_run must be true or false, but is '2'."),
            ("model.added_tokens=3", "model.added_tokens must be a list such as [a,b], but is '3'."),
            ("model.added_tokens=${seed}", "model.added_tokens must be a list such as [a,b], but is 0."),
            ("data.metrics=${study}", "data.metrics must be a list such as [a,b], but is None."),
            ("train.sft=${seed}", "train.sft must be a mapping such as {name:value}, but is 0."),
        ],
    )
    def test_what_has_the_wrong_form(self, problems, override, problem):
        assert problems(override) == [problem]


def _part(parent: Any, name: str) -> Any:
    return parent[name] if isinstance(parent, dict) else getattr(parent, name)
