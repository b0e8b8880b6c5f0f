"""PEFT's options in adapters from outside: the numbers of each use are those of PEFT, or it is refused by name."""

import dataclasses
import functools
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, MontecloraConfig, PeftModel, VeloraConfig, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen3MoeConfig

from lowrung.adapters import compatibility, export, files, injected, options, updates
from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.adapters.options import OPTIONS, Use
from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.errors import InputError, UsageError
from lowrung.finetune.data.template import Format
from lowrung.finetune.models import pretrained
from tests import architectures

CPU = torch.device("cpu")
IDS = torch.arange(40).reshape(2, 20) + 40
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
MOE = {
    "qwen3moe": Qwen3MoeConfig(**architectures.SIZES, **EXPERTS, num_experts=4, moe_intermediate_size=32),
    "mixtral": MixtralConfig(**architectures.SIZES, **EXPERTS, num_local_experts=4),
}
EXACT = ToleranceConf(max_abs_logit_diff=1e-4, mean_kl=1e-6, top1_agreement=1.0, eval_loss_delta=1e-4)
BOTH = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """An adapter as PEFT makes it.

    Attributes:
        lora: PEFT's settings, beside rank, alpha and targets.
        base: the architecture.
        refused: the uses that are refused, and by the name of which option.
    """

    lora: Mapping[str, Any]
    base: str = "llama"
    refused: Mapping[Use, str] = dataclasses.field(default_factory=dict)


def refused(option: str, *uses: Use) -> Mapping[Use, str]:
    return dict.fromkeys(uses, option)


BLOCKS = BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2)
PLAIN = Variant({})
VARIANTS = {
    "biases of LoRA": Variant({"lora_bias": True}, "qwen2"),
    "biases of LoRA on layers without": Variant({"lora_bias": True}, refused=refused("lora_bias", Use.MERGE)),
    "kasa": Variant({"kasa_config": KasaConfig()}, refused=refused("kasa_config", Use.SHARE, Use.COMBINE)),
    "replicated layers": Variant(
        {"layer_replication": [[0, 2], [1, 2]]},
        refused=refused("layer_replication", Use.MERGE, Use.SHARE, Use.COMBINE),
    ),
    "patterns": Variant({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "one layer": Variant({"layers_to_transform": 1, "layers_pattern": "layers"}),
    "all but some": Variant({"target_modules": "all-linear", "exclude_modules": ["v_proj", "down_proj"]}),
    "qalora": Variant({"use_qalora": True, "qalora_group_size": 32}),
    "velora": Variant({"velora_config": VeloraConfig(num_groups=8)}),
    "blocks": Variant(
        {"target_modules": ["q_proj", "o_proj"], "use_bdlora": BLOCKS}, refused=refused("use_bdlora", Use.COMBINE)
    ),
    "invocation": Variant(
        {"alora_invocation_tokens": [50, 51]},
        refused=refused("alora_invocation_tokens", Use.MERGE, Use.SHARE, Use.COMBINE),
    ),
    "monteclora": Variant({"monteclora_config": MontecloraConfig()}, refused=refused("monteclora_config", *Use)),
    **{f"init {name}": Variant({"init_lora_weights": name}) for name in ("orthogonal", "mica")},
    **{
        f"init {name}": Variant({"init_lora_weights": name}, refused=refused("init_lora_weights", *Use))
        for name in ("pissa_niter_4", "olora")
    },
    "experts": Variant({"target_parameters": BOTH}, "qwen3moe", refused("target_parameters", Use.COMBINE)),
    "experts alone": Variant(
        {
            "target_modules": [],
            "target_parameters": ["down_proj", "gate_up_proj"],
            "rank_pattern": {"gate_up_proj": 2},
            "alpha_pattern": {"experts.down_proj": 3},
            "use_rslora": True,
        },
        "mixtral",
        refused("target_parameters", Use.COMBINE),
    ),
    "a layer as a parameter": Variant(
        {"target_modules": [], "target_parameters": ["q_proj.weight"]},
        refused=refused("target_parameters", Use.COMBINE),
    ),
}
QUICK = ("biases of LoRA",)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The base of an architecture."""
    made: dict[str, ModelConf] = {}

    def base(name: str) -> ModelConf:
        if name in architectures.CONFIGS:
            return architectures.base(name)
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            with pretrained.quiet():
                architectures.random_model(MOE[name]).save_pretrained(folder)
            pretrained.load_tokenizer(pretrained.folder_of(ModelConf("embedded:tiny"))).save_pretrained(folder)
            made[name] = ModelConf(str(folder))
        return made[name]

    return base


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=IDS).logits
    return found


def loaded(base: ModelConf, folder: Path) -> Any:
    """The adapter as PEFT itself loads it."""
    return PeftModel.from_pretrained(pretrained.load_base(base, CPU), str(folder)).eval()


def make(variant: Variant, base: ModelConf, folder: Path, seed: int = 0) -> Tensor:
    """Two steps on nonsense; returns the logits."""
    torch.manual_seed(seed)
    targets: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(task_type="CAUSAL_LM", **{**targets, **variant.lora})
        adapted: Any = get_peft_model(pretrained.load_base(base, CPU), config)
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], 2e-2)
        for _ in range(2):
            adapted(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        adapted.save_pretrained(folder)
    return logits(adapted)


@functools.cache
def neighbour(base: str) -> tuple[Path, Tensor, Tensor]:
    """A plain adapter, its logits, and those of the base alone."""
    folder, conf = Path(tempfile.mkdtemp()) / "other", ModelConf(base)
    return folder, make(PLAIN, conf, folder, seed=1), logits(pretrained.load_base(conf, CPU))


def shared(base: ModelConf, folder: Path, expected: Tensor) -> None:
    """Checks the adapter on a base that others share, the base itself, and a neighbour."""
    beside, other, alone = neighbour(base.path)
    adapters = MultiAdapter(base, CPU)
    adapters.load("it", folder)
    adapters.load("other", beside)
    for name, right in (("it", expected), (None, alone), ("other", other), ("it", expected)):
        adapters.switch(name)
        assert torch.allclose(logits(adapters.model), right, atol=1e-5), name
    if compatibility.problems(files.read(folder), base, Use.MERGE):
        with pytest.raises(UsageError, match="lora_bias needs biases in the base"):
            adapters.merge()
    else:
        adapters.merge()
        assert torch.allclose(logits(adapters.model), expected, atol=1e-4)
        adapters.unmerge()
    adapters.switch(None)
    assert torch.equal(logits(adapters.model), alone)
    adapters.save("it", folder.parent / "copy")
    assert torch.allclose(logits(loaded(base, folder.parent / "copy")), expected, atol=1e-5)


def merged(base: ModelConf, folder: Path, expected: Tensor) -> None:
    """Checks the merged model as it is reloaded."""
    to = folder.parent / "merged"
    export.export(
        base=base,
        adapter=folder,
        folder=to,
        dtype="float32",
        format=Format(),
        rows=[],
        tolerance=EXACT,
        card=lambda model: "card",
    )
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(to)), expected, atol=1e-4)


def combined(base: ModelConf, folder: Path, expected: Tensor) -> None:
    """Checks that half and half of one adapter is that adapter."""
    shutil.copytree(folder, folder.parent / "same")
    for method in ("cat", "svd"):
        adapters = MultiAdapter(base, CPU)
        for name in (folder.name, "same"):
            adapters.load(name, folder.parent / name)
        adapters.combine("both", {folder.name: 0.5, "same": 0.5}, method=method)
        adapters.switch("both")
        assert torch.allclose(logits(adapters.model), expected, atol=1e-4)
        adapters.save("both", folder.parent / method)
        assert torch.allclose(logits(loaded(base, folder.parent / method)), expected, atol=1e-4)


USES = {Use.MERGE: merged, Use.SHARE: shared, Use.COMBINE: combined}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS])
def test_each_use_gives_pefts_own_numbers_or_refuses_by_name(tmp_path, bases, name):
    variant, folder = VARIANTS[name], tmp_path / "it"
    base = bases(variant.base)
    expected = make(variant, base, folder)
    assert not torch.allclose(expected, logits(pretrained.load_base(base, CPU)), atol=0.1)
    problems = compatibility.problems(files.read(folder), base)
    assert all(problem.startswith(variant.refused[Use.LOAD]) for problem in problems)
    assert bool(problems) == (Use.LOAD in variant.refused)
    if not problems:
        check_layers(base, folder)
    for use, check in USES.items():
        if use in variant.refused:
            with pytest.raises(UsageError, match=variant.refused[use]):
                check(base, folder, expected)
        else:
            check(base, folder, expected)


def check_layers(base: ModelConf, folder: Path) -> None:
    """Checks ranks, scalings and norms against those of PEFT's layers."""
    saved, model = files.read(folder), loaded(base, folder).get_base_model()
    slots = injected.slots(injected.model(saved.config, base))
    for name, layer in zip(slots, updates.layers(saved, slots), strict=True):
        peft = model.get_submodule(name)
        assert layer.rank == peft.r["default"]
        assert layer.scaling == pytest.approx(peft.scaling["default"])
        if layer.norm is not None:
            assert layer.norm == pytest.approx(peft.get_delta_weight("default").norm().item(), rel=1e-4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, bases):
    folder = tmp_path_factory.mktemp("plain") / "it"
    make(PLAIN, bases("llama"), folder)
    return folder


@pytest.fixture
def adapter(plain, tmp_path):
    """A copy of a plain adapter."""
    return shutil.copytree(plain, tmp_path / "it")


def change(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def problems_of(folder: Path) -> str:
    return " ".join(compatibility.problems(files.read(folder), architectures.base("llama")))


def test_every_option_of_the_installed_peft_is_known_and_no_other():
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(LoraConfig)}


def test_every_refusal_says_why_and_what_to_do():
    for reasons in OPTIONS.values():
        for reason in reasons.values():
            assert reason.endswith(".")
            assert reason.count(".") > 1


class TestUnknown:
    def test_an_option_that_a_release_of_peft_adds_is_refused_unless_it_is_at_its_default(self, adapter, monkeypatch):
        monkeypatch.delitem(options.OPTIONS, "use_rslora")
        assert problems_of(adapter) == ""
        change(adapter, use_rslora=True)
        assert "use_rslora is an option of PEFT 0." in problems_of(adapter)
        with pytest.raises(UsageError, match="use_rslora is an option of PEFT"):
            MultiAdapter(architectures.base("llama"), CPU).load("it", adapter)

    @pytest.mark.parametrize("value", [True, {"gamma": 0.1}, [1], "x", 3])
    def test_an_option_of_another_release_is_refused_where_it_says_anything(self, adapter, value):
        change(adapter, lora_magic=value, peft_version="9.1.0")
        message = problems_of(adapter)
        assert message.startswith("lora_magic must be an option of the installed PEFT (0.")
        assert "was saved by PEFT 9.1.0" in message

    @pytest.mark.parametrize("value", [None, False, {}, [], ""])
    def test_an_option_of_another_release_that_is_off_passes(self, adapter, value):
        change(adapter, lora_magic=value, enable_lora=None, merge_weights=False)
        assert problems_of(adapter) == ""

    @pytest.mark.parametrize("values", [{"arrow_config": {"top_k": 2}}, {"megatron_config": {"hidden_size": 64}}])
    def test_one_that_no_use_understands(self, adapter, values):
        change(adapter, **values)
        assert problems_of(adapter).startswith(
            f"{next(iter(values))} must be unset for an adapter to be loaded, but is"
        )

    def test_an_init_that_nobody_knows(self, adapter):
        change(adapter, init_lora_weights="magic")
        assert "init_lora_weights must not change the base when the adapter is loaded" in problems_of(adapter)


class TestTensors:
    def add(self, folder: Path, name: str, tensor: Tensor) -> None:
        tensors = load_file(folder / files.WEIGHTS)
        save_file({**tensors, f"{files.PREFIX}{name}": tensor}, folder / files.WEIGHTS)

    def test_one_that_peft_would_leave_out_is_refused(self, adapter):
        self.add(adapter, "model.layers.0.self_attn.q_proj.weight", torch.ones(64, 64))
        assert "has no use for tensors of these names: base_model.model.model.layers.0.self_attn.q_" not in (
            message := problems_of(adapter)
        )
        assert "has no use for tensors of these names: model.layers.0.self_attn.q_proj.weight" in message

    @pytest.mark.parametrize("name", ["lora_diag", "lora_magnitude_vector", "lora_B.bias", "lora_C.weight"])
    def test_one_of_an_option_that_is_not_set_is_refused(self, adapter, name):
        self.add(adapter, f"model.layers.0.self_attn.q_proj.{name}", torch.ones(4))
        assert f"model.layers.0.self_attn.q_proj.{name}" in problems_of(adapter)

    @pytest.mark.parametrize("values", [{"lora_bias": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
    def test_one_that_an_option_promises_is_missed(self, adapter, values):
        change(adapter, **values)
        assert "needs tensors that the file lacks" in problems_of(adapter)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_modules": 5}, "target_modules must be"),
        ({"rank_pattern": [1]}, "rank_pattern must be"),
        ({"trainable_token_indices": {"embed_tokens": "x"}}, "trainable_token_indices must be"),
        ({"modules_to_save": "lm_head"}, "modules_to_save must be"),
        ({"bias": "some"}, "bias must be one of none, all, lora_only, but is 'some'"),
        ({"use_dora": "yes"}, "use_dora must be true or false, but is 'yes'"),
        ({"lora_dropout": "x"}, "lora_dropout must be a number, but is 'x'"),
        ({"kasa_config": 3}, "must be a `KasaConfig`, a dict, or None"),
    ],
)
def test_a_value_of_another_type_is_named(adapter, values, message):
    change(adapter, **values)
    with pytest.raises(UsageError, match=rf"adapter_config\.json must hold PEFT's settings, but: .*{message}"):
        files.read(adapter)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
class TestExperts:
    def test_adapters_of_other_parameters_do_not_share_a_base(self, tmp_path, bases):
        base = bases("qwen3moe")
        for name, wanted in (("both", BOTH), ("one", BOTH[:1])):
            make(Variant({"target_parameters": wanted}), base, tmp_path / name)
        adapters = MultiAdapter(base, CPU)
        adapters.load("both", tmp_path / "both")
        with pytest.raises(UsageError, match=r"target_parameters must be the same .* one has mlp\.experts\.gate_up"):
            adapters.load("one", tmp_path / "one")

    def test_those_of_older_transformers_are_what_peft_makes_of_them(self, tmp_path, bases):
        """A Mixtral's experts were a module each, with w1 and w3 apart, before transformers 5."""
        base, folder = bases("mixtral"), tmp_path / "it"
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["w1", "w2", "w3"]).save_pretrained(str(folder))
        torch.manual_seed(0)
        sizes = {"w1": (128, 64), "w2": (64, 128), "w3": (128, 64)}
        tensors = {
            f"{files.PREFIX}model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.{factor}.weight": value * 0.1
            for layer in range(2)
            for expert in range(4)
            for name, (out, into) in sizes.items()
            for factor, value in (("lora_A", torch.randn(4, into)), ("lora_B", torch.randn(out, 4)))
        }
        save_file(tensors, folder / files.WEIGHTS)
        expected = logits(loaded(base, folder))
        assert compatibility.problems(files.read(folder), base, Use.MERGE) == []
        shared(base, folder, expected)
        merged(base, folder, expected)

    def test_biases_of_lora_are_not_combined_with_an_adapter_of_the_embedding(self, tmp_path):
        base, adapters = architectures.base("llama"), MultiAdapter(architectures.base("llama"), CPU)
        for name, kind in (("biased", "biases of LoRA on layers without"), ("embeds", None)):
            make(VARIANTS[kind] if kind else Variant({"target_modules": ["embed_tokens"]}), base, tmp_path / name)
            adapters.load(name, tmp_path / name)
        with pytest.raises(UsageError, match=r"lora_bias must be unset beside an adapter of the embedding"):
            adapters.combine("sum", {"biased": 1, "embeds": 1}, method="cat")


def test_a_library_that_raises_while_an_adapter_is_loaded_is_not_to_blame(adapter, monkeypatch):
    def raises(*_: Any, **__: Any) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr("lowrung.adapters.multi_adapter.set_peft_model_state_dict", raises)
    with pytest.raises(InputError, match=r"The adapter in .*it cannot be used \(RuntimeError: odd\)"):
        MultiAdapter(architectures.base("llama"), CPU).load("it", adapter)
