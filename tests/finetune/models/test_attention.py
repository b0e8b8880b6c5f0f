"""Rows one behind the other attend as each by itself does, and only there is anything computed."""

import functools

import pytest
import torch
from transformers import BloomConfig, MistralConfig, PhiConfig, Qwen3Config
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lowrung.config.schema import LoraConf, ModelConf
from lowrung.finetune.lora import adapter
from lowrung.finetune.models import attention, generate, head, pretrained
from lowrung.finetune.models.ends import Ends
from tests.architectures import CONFIGS, SIZES, TOKENS, random_model

JOINED = {
    "llama": CONFIGS["llama"],
    "gpt2": CONFIGS["gpt2"],
    "a window of three tokens": MistralConfig(**SIZES, sliding_window=3),
    "windows in some layers": CONFIGS["gemma3"],
    "norms of queries": Qwen3Config(**SIZES),
    "half rotary": PhiConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}),
}
LENGTHS = (9, 1, 14, 5)


def batch(*lengths: int, left: bool = False):
    """Rows of these lengths, padded on one side; all tokens but the first have a label, of the first row half."""
    generator = torch.Generator().manual_seed(len(lengths))
    width = max(lengths)
    rows = {name: torch.full((len(lengths), width), filler) for name, filler in FILLERS.items()}
    for number, length in enumerate(lengths):
        ids = torch.randint(1, 250, (length,), generator=generator)
        place = slice(width - length, width) if left else slice(0, length)
        rows["input_ids"][number, place], rows["attention_mask"][number, place] = ids, 1
        rows["labels"][number, place] = ids.masked_fill(
            torch.arange(length) < (length // 2 if number == 0 else 0), -100
        )
    return rows


FILLERS = {"input_ids": 0, "labels": -100, "attention_mask": 0}


def loss_and_gradients(model, way, rows):
    model.zero_grad()
    logits, labels = way(model, rows)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", JOINED)
def test_losses_and_gradients_are_those_of_padded_rows(name):
    model, rows = adapter.attach(random_model(JOINED[name]), LoraConf(r=4, alpha=8.0)), batch(*LENGTHS)
    with torch.no_grad():  # B begins at 0, and would leave A without a gradient
        for layer in adapter.adapted_layers(model).values():
            layer.lora_B["default"].weight.normal_(std=0.1)
    model.eval()  # without dropout
    loss, gradients = loss_and_gradients(model, head.on_all_tokens, rows)
    assert head.choose(model, rows) is head.on_joined_rows
    joined, others = loss_and_gradients(model, head.on_joined_rows, rows)
    torch.testing.assert_close(joined, loss)
    torch.testing.assert_close(others, gradients, atol=1e-6, rtol=1e-4)


def test_no_row_is_computed_with_another(monkeypatch):
    widths = []

    def counted(module, query, *others, **options):
        widths.append(query.shape[2])
        return sdpa_attention_forward(module, query, *others, **options)

    model, rows = random_model(CONFIGS["llama"]), batch(*LENGTHS)
    assert head.choose(model, rows) is head.on_joined_rows
    monkeypatch.setattr("lowrung.finetune.models.attention.sdpa_attention_forward", counted)
    head.on_joined_rows(model, rows)
    assert widths == [*LENGTHS] * model.config.num_hidden_layers


def test_a_row_that_is_padded_on_the_left_is_joined_as_well():
    model, rows = random_model(CONFIGS["llama"]), batch(*LENGTHS, left=True)
    expected, _ = head.on_all_tokens(model, batch(*LENGTHS))
    assert head.choose(model, batch(*LENGTHS)) is head.on_joined_rows
    logits, labels = head.on_joined_rows(model, rows)
    torch.testing.assert_close(logits, expected)
    assert len(labels) == 5 + 0 + 13 + 4  # the first of a row has nothing before it, whatever its label is


def test_many_tokens_stay_padded(monkeypatch):
    model, rows = random_model(CONFIGS["llama"]), batch(*LENGTHS)
    assert head.choose(model, rows) is head.on_joined_rows
    monkeypatch.setattr(head, "MOST_JOINED", sum(LENGTHS) - 1)
    monkeypatch.setattr(head, "joined", None)  # would raise if it were called
    torch.testing.assert_close(head.on_joined_rows(model, rows), head.on_labelled_tokens(model, rows))


@pytest.mark.parametrize(
    ("config", "used"),
    [
        (BloomConfig(**TOKENS, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.1), "eager"),  # ALiBi
        (CONFIGS["gemma2"], "eager"),
    ],
    ids=["bloom", "gemma2"],
)
def test_another_attention_is_left_as_it_is(config, used):
    model, rows = random_model(config), batch(*LENGTHS)
    expected, _ = head.on_all_tokens(model, rows)
    assert head.choose(model, rows) is head.on_labelled_tokens
    assert attention.name(model) == used
    torch.testing.assert_close(head.on_labelled_tokens(model, rows)[0], expected)


def test_a_model_that_mixes_rows_gets_its_own_attention_back(monkeypatch):
    model, rows = random_model(CONFIGS["llama"]), batch(*LENGTHS)
    monkeypatch.setattr(
        attention, "_part", lambda query, key, value, mask, start, end: (query[:, :, :end], key, value, None)
    )
    assert head.choose(model, rows) is head.on_labelled_tokens
    assert attention.name(model) == "sdpa"


def test_padded_rows_and_answers_are_the_same_with_it():
    tokenizer = pretrained.tokenizer_of(ModelConf("embedded:tiny"))
    model, rows = random_model(CONFIGS["llama"]), batch(*LENGTHS)
    prompts = [[5, 6, 7], [9], [11, 12, 13, 14]]
    greedy = functools.partial(generate.greedy, model, tokenizer, prompts, ends=Ends(tokens=(256,)), new_tokens=6)
    before = head.on_all_tokens(model, rows)[0]
    said = greedy()
    assert head.choose(model, rows) is head.on_joined_rows
    assert torch.equal(head.on_all_tokens(model, rows)[0], before)
    assert greedy() == said


def test_a_saved_config_does_not_name_it(tmp_path):
    model = random_model(CONFIGS["llama"])
    assert head.choose(model, batch(*LENGTHS)) is head.on_joined_rows
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
