"""The logits are the model's own, whatever its forward pass does; `head.choose` finds out which way gives them."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import (
    CohereConfig,
    Gemma4Config,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    ModernBertDecoderConfig,
    Qwen3MoeConfig,
)

from lowrung.config.schema import LoraConf
from lowrung.finetune.lora import adapter
from lowrung.finetune.models import head
from tests import architectures, models
from tests.architectures import CONFIGS, SIZES, TOKENS, random_model

OTHERS = {
    "cohere": CohereConfig(**{k: v for k, v in SIZES.items() if k != "head_dim"}, logit_scale=0.25),
    "granite": GraniteConfig(**SIZES, logits_scaling=8.0),
    "experts": Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32),
    "mamba": MambaConfig(**TOKENS, hidden_size=64, num_hidden_layers=2, state_size=8, initializer_range=0.1),
    "a layer before the head": ModernBertDecoderConfig(
        **{**TOKENS, "bos_token_id": 258},
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        local_attention=32,
        initializer_range=0.1,
        cls_token_id=256,
        sep_token_id=256,
    ),
    "a cap in text_config": Gemma4Config(
        text_config={
            **SIZES,
            "vocab_size_per_layer_input": 264,
            "hidden_size_per_layer_input": 8,
            "global_head_dim": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 3.0,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        audio_config=None,
    ),
}
PADDED = ("gemma2", "mamba")
"""Those whose rows are not joined: attention that transformers writes out, and a state that goes on."""

OWN = {
    "a bias": lambda model, logits: logits + model.extra,
    "a scale": lambda model, logits: logits * 0.3,
    "other words": lambda model, logits: logits.flip(-1),
    "masked words": lambda model, logits: logits.masked_fill(model.extra > 1, -torch.inf),
    "very low words": lambda model, logits: logits.masked_fill(model.extra > 1, -3e38),
    "probabilities": lambda model, logits: logits.log_softmax(-1),
}
WHOLE = {
    "positions": models.smoothed,
    "positions, in training": lambda model, logits: models.smoothed(model, logits) if model.training else logits,
    "positions, in evaluation": lambda model, logits: logits if model.training else models.smoothed(model, logits),
    "a shape": lambda model, logits: logits.view(2, -1, 264),
    "the last": lambda model, logits: torch.cat([logits[..., :-1, :], logits[..., -1:, :] * 2], dim=-2),
}


def rows():
    generator = torch.Generator().manual_seed(1)
    for length in (9, 14):
        ids = torch.randint(1, 250, (length,), generator=generator).tolist()
        yield {"input_ids": ids, "labels": [-100] * (length // 2) + ids[length // 2 :]}


def padded():
    """The rows as a batch, the shorter one padded on its right."""
    some = list(rows())

    def filled(name, filler):
        return torch.tensor([row[name] + [filler] * (14 - len(row[name])) for row in some])

    ids, labels = filled("input_ids", 0), filled("labels", -100)
    return {"input_ids": ids, "labels": labels, "attention_mask": (ids > 0).long()}


def packed():
    """The rows one behind the other, as one."""
    one, other = rows()
    joined = {name: torch.tensor([one[name] + other[name]]) for name in ("input_ids", "labels")}
    return {**joined, "position_ids": torch.tensor([[*range(9), *range(14)]])}


def own_loss(model, batch):
    """What the model itself says to its rows, without lowrung."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())


def chosen_loss(model, batch):
    return functional.cross_entropy(*head.choose(model, batch)(model, batch))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gemma3", *OTHERS])
def test_of_all_architectures_the_head_sees_labelled_tokens_only(name):
    batch, model = padded(), random_model({**CONFIGS, **OTHERS}[name])
    assert head.choose(model, batch) is (head.on_labelled_tokens if name in PADDED else head.on_joined_rows)
    torch.testing.assert_close(chosen_loss(model, batch), own_loss(model, batch))


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_packed_rows_are_read_as_such(name):
    batch, model = packed(), random_model(CONFIGS[name])
    own = own_loss(model, batch)
    assert head.choose(model, batch) is (head.on_labelled_tokens if name in PADDED else head.on_joined_rows)
    torch.testing.assert_close(chosen_loss(model, batch), own)


@pytest.mark.parametrize("change", OWN.values(), ids=OWN)
def test_what_a_model_does_to_its_logits_stays_its_own(change):
    model = models.changing_logits(change)
    assert head.choose(model, padded()) is head.on_joined_rows
    torch.testing.assert_close(chosen_loss(model, padded()), own_loss(model, padded()))


@pytest.mark.parametrize(
    ("change", "way"),
    [
        (lambda _, hidden: functional.layer_norm(hidden, (64,)), head.on_joined_rows),
        (models.smoothed, head.on_labelled_tokens),  # with the position before, which may be another row's
    ],
)
def test_what_a_model_does_before_its_head_stays_its_own(change, way):
    model = models.changing_hidden_states(change)
    assert head.choose(model, padded()) is way
    torch.testing.assert_close(chosen_loss(model, padded()), own_loss(model, padded()))


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE)
def test_a_model_that_needs_all_positions_gets_them(change):
    model = models.changing_logits(change)
    assert head.choose(model, padded()) is head.on_all_tokens
    torch.testing.assert_close(chosen_loss(model, padded()), own_loss(model, padded()))


def test_a_head_that_is_no_module_or_is_not_found_sees_all_tokens():
    class Functional(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, use_cache=None):
            output = self.model(input_ids=input_ids, attention_mask=attention_mask)
            output.logits = functional.linear(output.last_hidden_state, self.lm_head.weight)
            return output

    class Hidden(LlamaForCausalLM):
        def get_output_embeddings(self):
            return None

    for kind in (Functional, Hidden):
        model = kind(LlamaConfig(**SIZES)).eval()
        assert head.choose(model, padded()) is head.on_all_tokens
        torch.testing.assert_close(chosen_loss(model, padded()), own_loss(model, padded()))


def test_a_model_that_cannot_read_the_rows_says_so():
    batch = padded()
    batch["input_ids"][0, 3] = 264
    with pytest.raises(IndexError):
        head.choose(random_model(CONFIGS["llama"]), batch)


@pytest.mark.parametrize(
    ("name", "lora"),
    [("llama", {}), ("llama", {"modules_to_save": ["lm_head"]}), ("tied llama", {"trainable_token_indices": [5, 6]})],
)
def test_gradients_are_the_model_s_own_with_an_adapter(name, lora):
    model = adapter.attach(random_model(CONFIGS[name]), LoraConf(**{"r": 4, "alpha": 8.0, **lora}))
    batch = padded()
    assert head.choose(model.train(), batch) is head.on_joined_rows
    gradients = []
    for loss in (chosen_loss, own_loss):
        model.zero_grad()
        loss(model, batch).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert set(gradients[0]) == set(gradients[1])
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][parameter])


def test_a_trained_bias_that_no_head_has_gets_its_gradient():
    model: Any = models.changing_logits(lambda model, logits: logits + model.extra)
    chosen_loss(model, padded()).backward()
    assert model.extra.grad.abs().sum() > 0


def test_choosing_leaves_the_mode_and_the_random_numbers():
    model = random_model(architectures.CONFIGS["gpt2"])
    for mode in (True, False):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        assert head.choose(model.train(mode), padded()) is head.on_joined_rows  # with dropout in training
        assert torch.equal(torch.get_rng_state(), before)
        assert model.training is mode


def test_the_rows_that_are_compared_are_the_ends_of_real_ones():
    one, other = {"input_ids": [*range(100)], "labels": [-100] * 90 + [*range(90, 100)]}, {"input_ids": [7, 8, 9]}
    first, second = head.probe_rows([one, {**other, "labels": [-100, 8, 9]}])
    assert first == {"input_ids": [*range(68, 100)], "labels": [-100] * 22 + [*range(90, 100)]}
    assert second == {"input_ids": [7, 8, 9], "labels": [-100, 8, 9]}
    alone = head.probe_rows([one])
    assert [len(row["input_ids"]) for row in alone] == [32, 16]
