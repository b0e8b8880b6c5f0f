"""The real model and real text, end to end, through the command that users type."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM

from lowrung.finetune.models import generate, pretrained
from lowrung.finetune.models.ends import Ends
from lowrung.store.held_out import HeldOut
from tests.warm import succeeds

pytestmark = pytest.mark.slow

SETTINGS = [
    "lora.r=4",
    "train.learning_rate=2e-3",
    "train.max_steps=4",
    "train.eval_steps=4",
    "train.batch_size=2",
    "data.eval_size=4",
    "verify.prompts=2",
    "verify.new_tokens=4",
    "verify.keep_merged=true",
    "track=none",
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The folder of one short run."""
    folder = tmp_path_factory.mktemp("a folder")
    succeeds(folder, *SETTINGS)
    (run,) = (folder / "runs").glob("[!.]*")
    return run


def outcome(results):
    return json.loads((results / "outcome.json").read_text())


def test_it_learns(results):
    metrics = outcome(results)["metrics"]
    assert metrics["eval/loss"] < metrics["base/eval_loss"] - 0.3
    assert metrics["eval/token_accuracy"] > 0.3


def test_its_scores_of_each_held_out_example_are_those_of_the_run(results):
    metrics, scored = outcome(results)["metrics"], HeldOut.read(results / "held_out.parquet")
    assert len(scored.tokens) == 4
    assert scored.nll.sum() / scored.tokens.sum() == metrics["eval/loss"]
    assert scored.right.sum() / scored.tokens.sum() == metrics["eval/token_accuracy"]
    assert "held_out.parquet" in outcome(results)["files"]


def test_rank_4_on_all_linear_layers_has_half_of_rank_8_s_parameters(results):
    metrics = outcome(results)["metrics"]
    assert metrics["params/trainable"] == 2_442_240 / 2
    assert metrics["params/total"] == 134_515_008 + 2_442_240 / 2
    assert outcome(results)["facts"]["parameters"] == (
        "trainable params: 1,221,120 || all params: 135,736,128 || trainable%: 0.8996"
    )


def test_the_merge_is_verified_in_both_precisions(results):
    metrics = outcome(results)["metrics"]
    assert metrics["merge/passed"] == 1.0
    assert metrics["merge/mean_kl"] < 1e-8 < metrics["merge/float16/mean_kl"] < 1e-4 < metrics["merge/adapter_effect"]


def answer(loaded, tokenizer, question):
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    return tokenizer.decode(
        generate.greedy(loaded, tokenizer, [prompt], ends=Ends((tokenizer.eos_token_id,)), new_tokens=8)[0]
    )


def test_the_base_is_the_model_that_it_says(results):
    folder = pretrained.locate("embedded:smollm2_135m")
    base = pretrained.load_model(folder, torch.float32, torch.device("cpu"))
    tokenizer = pretrained.load_tokenizer(folder)
    assert answer(base, tokenizer, "What is the capital of France?") == "The capital of France is Paris."


def test_adapter_and_kept_merged_model_answer_alike(results):
    tokenizer = pretrained.load_tokenizer(results / "merged")
    adapter = AutoPeftModelForCausalLM.from_pretrained(str(results / "adapter")).eval()
    merged = pretrained.load_model(results / "merged", torch.float32, adapter.device)
    question = "What does `math.sqrt(x)` do?"
    assert answer(adapter, tokenizer, question) == answer(merged, tokenizer, question)
