"""Tokens that a base is given: in its tokenizer, its embedding and its head."""

import dataclasses
from typing import Any

import pytest
import torch
from tokenizers import normalizers
from transformers import PhiConfig

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import added_tokens, pretrained, soundness
from tests import architectures

CPU = torch.device("cpu")
TOKENS = ["<think>", "</think>", "forty-two"]
TINY = ModelConf("embedded:tiny", added_tokens=TOKENS)
"""Its embedding has a row for each token and no more; those of `tests.architectures` have five to spare."""


def matrices(model):
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


def plain(base):
    return dataclasses.replace(base, added_tokens=[])


class TestTokenizer:
    def test_a_token_is_found_wherever_it_stands_and_kept_in_answers(self):
        tokenizer: Any = pretrained.tokenizer_of(TINY)
        size = len(pretrained.load_tokenizer(pretrained.folder_of(TINY)))
        ids = tokenizer("a<think>forty-two </think>")["input_ids"]
        assert [number - size for number in ids if number >= size] == [0, 2, 1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == "a<think>forty-two </think>"

    def test_added_tokens_are_found_before_any_text_is_normalised(self):
        tokenizer: Any = pretrained.load_tokenizer(pretrained.folder_of(TINY))
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
        added_tokens.add(tokenizer, ["<THINK>"])
        assert tokenizer("A<THINK>")["input_ids"] == [*tokenizer("a")["input_ids"], 259]
        assert 259 not in tokenizer("a<think>")["input_ids"]

    def test_saved_and_loaded_it_has_the_same_numbers(self, tmp_path):
        tokenizer: Any = pretrained.tokenizer_of(TINY)
        tokenizer.save_pretrained(tmp_path)
        again: Any = pretrained.load_tokenizer(tmp_path)
        assert again("a<think>b")["input_ids"] == tokenizer("a<think>b")["input_ids"]
        assert len(again) == len(tokenizer) == len(pretrained.load_tokenizer(pretrained.folder_of(TINY))) + 3

    def test_tokens_that_it_has_are_not_added_again(self, tmp_path):
        tokenizer: Any = pretrained.tokenizer_of(TINY)
        added_tokens.add(tokenizer, ["</think>", "new"])
        assert added_tokens.numbers(tokenizer, ["new", "<think>", "</think>"]) == [262, 259, 260]


class TestRows:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_new_rows_are_the_mean_of_the_old_ones_which_stay(self, dtype):
        before, after = (pretrained.load_base(base, CPU, dtype=dtype) for base in (plain(TINY), TINY))
        for old, new in zip(matrices(before), matrices(after), strict=True):
            assert new.shape == (old.shape[0] + 3, old.shape[1])
            assert torch.equal(new[:-3], old)
            expected = old.float().mean(dim=0).to(dtype)
            assert all(torch.equal(row, expected) for row in new[-3:])
        assert after.config.vocab_size == before.config.vocab_size + 3

    def test_the_base_is_the_same_each_time_and_no_random_number_is_used_up(self):
        torch.manual_seed(7)
        expected = torch.rand(3)
        torch.manual_seed(7)
        one = pretrained.load_base(TINY, CPU)
        assert torch.equal(torch.rand(3), expected)
        two = pretrained.load_base(TINY, CPU)
        assert all(torch.equal(a, b) for a, b in zip(matrices(one), matrices(two), strict=True))

    @pytest.mark.parametrize("architecture", ["tied llama", "gpt2"])
    def test_a_head_that_is_the_embedding_stays_so(self, architecture):
        tokens = [f"<{letter}>" for letter in "abcdefghi"]
        base = dataclasses.replace(architectures.base(architecture), added_tokens=tokens)
        embedding, head = matrices(pretrained.load_base(base, CPU))
        assert head is embedding
        assert head.shape[0] == 259 + 9

    def test_rows_that_a_base_has_to_spare_are_used_as_they_are(self):
        base = dataclasses.replace(architectures.base("llama"), added_tokens=TOKENS)
        before, after = (pretrained.load_base(one, CPU) for one in (plain(base), base))
        assert all(torch.equal(a, b) for a, b in zip(matrices(before), matrices(after), strict=True))
        assert pretrained.added_rows(base) == range(259, 262)

    def test_a_head_s_biases_grow_too(self):
        sizes: dict[str, Any] = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        }
        model: Any = architectures.random_model(PhiConfig(vocab_size=16, **sizes))
        model.lm_head.bias.data = torch.arange(16.0)
        added_tokens.grow(model, 18)
        assert model.lm_head.bias.tolist() == [*map(float, range(16)), 7.5, 7.5]

    @pytest.mark.parametrize("kind", ["int8", "nf4"])
    def test_a_quantised_base_has_the_same_new_rows(self, kind):
        pytest.importorskip("bitsandbytes")
        one, other = (pretrained.load_base(dataclasses.replace(TINY, quantization=q), CPU) for q in ("none", kind))
        assert all(torch.equal(a, b) for a, b in zip(matrices(one), matrices(other), strict=True))

    def test_the_skeleton_has_them_and_their_numbers_are_known_without_weights(self):
        skeleton = pretrained.skeleton(TINY)
        assert skeleton.device == torch.device("meta")
        assert [matrix.shape[0] for matrix in matrices(skeleton)] == [262, 262]
        assert pretrained.added_rows(TINY) == range(259, 262)
        assert pretrained.added_rows(plain(TINY)) == range(0)


def test_equal_bases_are_one_key():
    assert len({ModelConf("a", added_tokens=["x"]), ModelConf("a", added_tokens=["x"])}) == 1
    assert len({ModelConf("a", added_tokens=["x"]), ModelConf("a")}) == 2


def test_tokens_that_the_model_has_are_refused():
    assert soundness.problems(TINY) == []
    assert soundness.problems(ModelConf("embedded:tiny", added_tokens=["<think>", "a", "<|im_end|>"])) == [
        "model.added_tokens must be new to the model, but embedded:tiny has a, <|im_end|> already. Leave them out;"
        " lora.trainable_token_indices trains tokens that a model has (64, 256)."
    ]


@pytest.mark.parametrize("count", [1, 3, 64, 130])
def test_the_examples_read_and_predict_each_token(count):
    rows = added_tokens.examples(range(259, 259 + count))
    assert {number for row in rows for number in row["input_ids"][:-1]} == set(range(259, 259 + count))
    assert {label for row in rows for label in row["labels"]} == {-100, *range(259, 259 + count)}
    assert all(len(row["input_ids"]) == len(row["labels"]) <= 65 and row["labels"][0] == -100 for row in rows)
