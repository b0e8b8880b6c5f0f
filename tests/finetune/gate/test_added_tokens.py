"""Adapters that add tokens to their base: what is saved and merged is what was trained, and what is lost is seen."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lowrung.adapters import compatibility, files
from lowrung.config.schema import ModelConf, ToleranceConf
from lowrung.errors import UsageError
from lowrung.finetune.gate import verify
from lowrung.finetune.gate.case import Case, Evidence
from lowrung.finetune.gate.difference import completion_logits
from lowrung.finetune.lora import merge
from lowrung.finetune.models import added_tokens, pretrained
from tests import architectures, training

CPU = torch.device("cpu")
TOLERANCES = {
    "float32": ToleranceConf(1e-3, 1e-6, 0.99, 1e-4),
    "bfloat16": ToleranceConf(4.0, 1e-2, 0.85, 6e-2),
}
TOKENS = ["Write", "seventy", "<think>", "twenty", "thirty", "forty", "hundred"]
"""Of the prompts, of the answers, and of neither. Where five rows are to spare, two are new."""

LOGITS = 1e-4
"""Largest difference between equal models. Measured: 3e-6; training changes a logit by 1 and more."""

BOTH = {"modules_to_save": ["embed_tokens", "lm_head"]}
TINY = dataclasses.replace(training.TINY, added_tokens=TOKENS)


def base_of(name, **settings):
    return dataclasses.replace(architectures.base(name), added_tokens=TOKENS, **settings)


def train(folder, base=TINY, **kind):
    """What was trained, and the evidence for the gate."""
    trained, _ = training.fine_tune(folder, base=base, max_steps=3, eval_steps=3, **kind)
    rows = [*trained.held_out[:4], *added_tokens.examples(pretrained.added_rows(base))]
    return trained, Evidence.of(trained.model, rows, trained.dtype, trained.ends)


def gate(folder, evidence, base=TINY, keep=None):
    return verify.verify(
        Case(
            base=base,
            adapter_folder=folder / "adapter",
            evidence=evidence,
            new_tokens=2,
            merge_dtype="bfloat16",
            tolerances=TOLERANCES,
            scratch=folder / "scratch",
        ),
        keep=keep,
    )


def distance(model, evidence):
    return (completion_logits(model.eval(), evidence.rows)[0] - evidence.logits).abs().max().item()


CASES = {
    "tiny": (TINY, {}),
    "tied": (base_of("tied llama"), {}),
    "Conv1D": (base_of("gpt2"), {}),
    "tokenizer with a token more": (base_of("qwen2"), {}),
    "scaled embedding, capped logits": (base_of("gemma2"), {}),
    "whole": (TINY, BOTH),
    "whole head": (TINY, {"modules_to_save": ["lm_head"]}),
    "whole, tied": (base_of("tied llama"), BOTH),
    "with others": (base_of("tied llama"), {"trainable_token_indices": [1, 2, 262]}),
    "PiSSA and DoRA": (TINY, {"init": "pissa", "use_dora": True}),
    "EVA": (base_of("tied llama"), {"init": "eva", "init_examples": 8}),
    "int8": (dataclasses.replace(TINY, quantization="int8"), {}),
    "nf4": (base_of("tied llama", quantization="nf4"), {}),
    "bfloat16": (dataclasses.replace(TINY, dtype="bfloat16"), {}),
}
FAST = ("tiny",)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT's, where both are trained whole
@pytest.mark.parametrize("case", [pytest.param(case, marks=[] if case in FAST else pytest.mark.slow) for case in CASES])
def test_it_passes_the_gate_and_loads_as_people_load_it(tmp_path, case):
    base, lora = CASES[case]
    trained, evidence = train(tmp_path, base, lora=lora)
    assert trained.metrics["eval/loss"] < trained.metrics["base/eval_loss"]
    assert gate(tmp_path, evidence, base, keep=tmp_path / "merged").failures == ()
    rows = max(pretrained.added_rows(base)) + 1
    merged: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert {m.weight.shape[0] for m in (merged.get_input_embeddings(), merged.get_output_embeddings())} == {rows}
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["vocab_size"] == rows
    if base.quantization == "none" and base.dtype == "float32":
        reloaded = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "adapter"))
        assert distance(reloaded, evidence) < LOGITS


@pytest.mark.slow
def test_a_row_that_the_base_lacked_before_is_trained_too(tmp_path):
    """Gemma 3's tokenizer has more tokens than its embedding has rows."""
    shutil.copytree(pretrained.folder_of(TINY), tmp_path / "base")
    tokenizer = pretrained.load_tokenizer(tmp_path / "base")
    tokenizer.add_tokens(["<one more>"])
    tokenizer.save_pretrained(tmp_path / "base")
    base = dataclasses.replace(TINY, path=str(tmp_path / "base"))
    assert pretrained.added_rows(base) == range(259, 267)
    _, evidence = train(tmp_path, base)
    assert gate(tmp_path, evidence, base).failures == ()
    adapter = files.read(tmp_path / "adapter")
    assert files.base_of(adapter) == dataclasses.replace(base, dtype="auto")
    assert compatibility.problems(adapter, base) == []


@pytest.fixture(scope="module")
def untied(tmp_path_factory):
    return once(tmp_path_factory.mktemp("untied"), TINY)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return once(tmp_path_factory.mktemp("tied"), base_of("tied llama"))


@dataclasses.dataclass
class Once:
    """An adapter that was trained once."""

    base: ModelConf
    folder: Path
    evidence: Evidence

    def copy(self, folder):
        shutil.copytree(self.folder / "adapter", folder / "adapter")
        return folder / "adapter"

    def failures(self, folder):
        return list(gate(folder, self.evidence, self.base).failures)


def once(folder, base):
    _, evidence = train(folder, base)
    return Once(base, folder, evidence)


@pytest.mark.slow
def test_the_gate_is_silent_about_rows_that_are_filled(untied, tmp_path):
    """transformers tells how it draws those that AutoPeft makes room for."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    untied.copy(tmp_path)
    try:
        assert untied.failures(tmp_path) == []
    finally:
        logger.removeHandler(handler)
    assert said == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "expected"), [("untied", ["model.embed_tokens", "lm_head"]), ("tied", ["model.embed_tokens"])]
)
def test_the_rows_alone_are_saved_and_what_was_not_read_is_where_it_began(which, expected, request):
    one = request.getfixturevalue(which)
    tensors = load_file(one.folder / "adapter" / "adapter_model.safetensors")
    rows = {name: tensor for name, tensor in tensors.items() if "lora_" not in name}
    names = {matrix: f"{files.PREFIX}{matrix}.token_adapter.trainable_tokens_delta" for matrix in expected}
    assert rows.keys() == set(names.values())
    assert {tuple(tensor.shape) for tensor in rows.values()} == {(len(TOKENS), 64)}
    if which == "untied":
        start = ends(pretrained.load_base(one.base, CPU))[0].weight[-1]
        moved = rows[names["model.embed_tokens"]].ne(start).any(dim=1).tolist()
        assert moved[:3] == [True, True, False]  # <think> is in no example


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["embed_tokens", "lm_head"])
def test_fault_the_rows_of_the_added_tokens_are_not_saved(untied, tmp_path, lost):
    folder = untied.copy(tmp_path)
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if f"{lost}.token_adapter" not in name})
    (failure,) = untied.failures(tmp_path)
    assert failure.startswith("reloaded adapter: it must load on its base, but KeyError")


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["model.embed_tokens", "lm_head"])
def test_fault_the_adapter_forgets_that_it_trained_rows(untied, tmp_path, lost):
    """AutoPeft fills them with what it draws, and says nothing."""
    folder = untied.copy(tmp_path)
    rewrite(folder, lambda tensors: {name: t for name, t in tensors.items() if f"{lost}.token_adapter" not in name})
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    del config["trainable_token_indices"][lost]
    file.write_text(json.dumps(config))
    assert any(failure.startswith("reloaded adapter: max |Δlogit|") for failure in untied.failures(tmp_path))
    assert compatibility.problems(files.read(folder), untied.base) == [
        f"it adds {', '.join(TOKENS)} to its base, so it must hold the rows of {lost} that are new, but lacks"
        " 259, 260, 261, 262, 263, 264, 265. Train and save them (`trainable_token_indices`)."
    ]


@pytest.mark.slow
def test_fault_one_row_that_no_example_shows_is_another(untied, tmp_path):
    """The gate has each token read, whether or not it is in the held-out examples."""
    folder = untied.copy(tmp_path)

    def moved(tensors):
        tensors[f"{files.PREFIX}model.embed_tokens.token_adapter.trainable_tokens_delta"][2] += 0.3  # <think>
        return tensors

    rewrite(folder, moved)
    assert any(failure.startswith("reloaded adapter: max |Δlogit|") for failure in untied.failures(tmp_path))


@pytest.mark.parametrize("which", ["untied", "tied"])
def test_fault_the_adapter_s_tokenizer_is_saved_without_them(which, tmp_path, request):
    one = request.getfixturevalue(which)
    pretrained.load_tokenizer(pretrained.folder_of(one.base)).save_pretrained(one.copy(tmp_path))
    failures = one.failures(tmp_path)
    listed = ", ".join(TOKENS)
    assert failures[0] == (
        f"saved adapter: the tokenizer saved beside it must have the tokens that were added, but lacks {listed}"
    )
    assert failures[1].startswith("reloaded adapter: it must load on its base, but IndexError")


@pytest.mark.slow
def test_fault_the_merged_model_s_tokenizer_is_saved_without_them(untied, tmp_path, monkeypatch):
    untied.copy(tmp_path)
    save = merge.save
    plain = pretrained.load_tokenizer(pretrained.folder_of(untied.base))
    monkeypatch.setattr(merge, "save", lambda model, tokenizer, folder, dtype: save(model, plain, folder, dtype))
    assert [failure.split(": ")[0] for failure in untied.failures(tmp_path)] == [
        "merged in float32",
        "merged in bfloat16",
    ]


def test_fault_the_merged_model_is_left_without_their_rows(untied, tmp_path, monkeypatch):
    untied.copy(tmp_path)

    def short(peft_model):
        merged = peft_model.merge_and_unload()
        merged.resize_token_embeddings(259)
        return merged

    monkeypatch.setattr(merge, "merge", short)
    assert untied.failures(tmp_path) == [
        f"merged in {dtype}: it must have 266 rows, one for each token, but has 259"
        for dtype in ("float32", "bfloat16")
    ]


def test_fault_config_json_has_the_base_s_vocabulary(untied, tmp_path, monkeypatch):
    untied.copy(tmp_path)
    save = merge.save

    def wrong(model, tokenizer, folder, dtype):
        save(model, tokenizer, folder, dtype)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "vocab_size": 259}))

    monkeypatch.setattr(merge, "save", wrong)
    assert [failure.split(", ")[1] for failure in untied.failures(tmp_path)] == ["one for each token"] * 2


@pytest.mark.parametrize("which", ["untied", "tied"])
@pytest.mark.parametrize("matrix", ["embedding", "head"])
@pytest.mark.slow
def test_fault_the_merge_leaves_rows_as_they_began(which, matrix, tmp_path, request, monkeypatch):
    one = request.getfixturevalue(which)
    one.copy(tmp_path)

    def unmerged(peft_model):
        start = pretrained.load_base(one.base, CPU)
        merged = peft_model.merge_and_unload()
        for left, right in zip(ends(merged), ends(start), strict=True):
            if (matrix == "embedding") == (left is merged.get_input_embeddings()):
                left.weight.data[259:] = right.weight.data[259:]
        return merged

    monkeypatch.setattr(merge, "merge", unmerged)
    failures = one.failures(tmp_path)
    assert any(failure.startswith("merged in float32: max |Δlogit|") for failure in failures)


def test_fault_the_merge_unties_the_head(tied, tmp_path, monkeypatch):
    tied.copy(tmp_path)

    def untied_model(peft_model):
        merged = peft_model.merge_and_unload()
        merged.config.tie_word_embeddings = False
        merged.lm_head.weight = torch.nn.Parameter(merged.lm_head.weight.detach().clone())
        return merged

    monkeypatch.setattr(merge, "merge", untied_model)
    assert [failure.split(": ")[1] for failure in tied.failures(tmp_path)] == [
        "the head must be tied to the embedding, as in the base, but is not"
    ] * 2


@pytest.mark.slow
def test_fault_a_model_that_was_trained_whole_is_saved_without_their_rows(tmp_path):
    trained, evidence = train(tmp_path, is_full=True)
    folder, limits = tmp_path / "adapter", {"tolerances": TOLERANCES, "evidence": evidence, "base": TINY}
    assert verify.verify_model(model_folder=folder, **limits).failures == ()
    trained.model.resize_token_embeddings(259)
    trained.model.save_pretrained(folder)
    assert verify.verify_model(model_folder=folder, **limits).failures == (
        "reloaded model: it must have 266 rows, one for each token, but has 259",
    )


def ends(model):
    return model.get_input_embeddings(), model.get_output_embeddings()


def rewrite(folder, change):
    file = folder / "adapter_model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


# -- read by itself ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["untied", "tied"])
def test_the_tokens_are_read_from_the_tokenizer_beside_the_adapter(which, request):
    one = request.getfixturevalue(which)
    adapter = files.read(one.folder / "adapter")
    own = dataclasses.replace(one.base, dtype="auto")  # no adapter says in which precision its base was loaded
    assert files.base_of(adapter) == dataclasses.replace(own, path=str(pretrained.folder_of(own)))
    assert files.base_of(adapter, own.path) == own
    assert compatibility.problems(adapter, one.base) == []


@pytest.mark.parametrize("which", ["untied", "tied"])
def test_a_base_without_the_tokens_is_refused(which, request):
    one = request.getfixturevalue(which)
    adapter = files.read(one.folder / "adapter")
    with pytest.raises(UsageError, match=r"it trains the embeddings of tokens .*265, but .* has 0 to"):
        compatibility.check(adapter, dataclasses.replace(one.base, added_tokens=[]))


@pytest.mark.slow
def test_a_base_without_the_tokens_is_refused_where_matrices_were_trained_whole(tmp_path):
    train(tmp_path, lora=BOTH)
    adapter = files.read(tmp_path / "adapter")
    assert compatibility.problems(adapter, TINY) == []
    (problem,) = compatibility.problems(adapter, ModelConf("embedded:tiny"))
    assert problem.startswith("it has 266 rows of model.embed_tokens and lm_head, but embedded:tiny has 259. If")


def test_without_a_tokenizer_nothing_is_added(untied, tmp_path):
    folder = untied.copy(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert files.base_of(files.read(folder)).added_tokens == []
