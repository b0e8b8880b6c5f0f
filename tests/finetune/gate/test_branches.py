import copy
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomConfig, FalconH1Config, JambaConfig, MambaConfig, MptConfig

from lowrung.finetune.gate import branches
from lowrung.finetune.gate.difference import completion_logits
from tests import architectures, models


def row(text, *answers):
    """A row of bytes in which some parts of the text are answers, the last of them at its end."""
    labels = [-100] * len(text)
    for answer in answers:
        start = text.rindex(answer)
        labels[start : start + len(answer)] = text[start : start + len(answer)]
    return {"input_ids": [*text], "labels": labels}


ROWS = [
    row(b"one two three four", b"three four"),
    row(b"to be or not to be", b"be"),
    row(b"a question? an answer. another? a longer one", b"an answer.", b"a longer one"),
    row(b"no", b"o"),
]
OTHERS = [[*b"nothing"], [*b"seen"], [], [*b"of this"]]
NEW = 7


def far(one, two):
    """The largest difference of any logit."""
    pairs = [(one.logits, two.logits), *zip(one.after, two.after, strict=True)]
    return max((left - right).abs().max().item() for left, right in pairs)


def read(model):
    return [way(model, ROWS, OTHERS) for way in (branches.apart, branches.together)]


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_where_it_is_right_it_is_what_each_says_apart(name):
    model = architectures.random_model(architectures.CONFIGS[name]).eval()
    if branches.is_right(model, ROWS, NEW):
        assert far(*read(model)) < 1e-3
        assert torch.equal(branches.apart(model, ROWS, OTHERS).logits, completion_logits(model, ROWS)[0])


@pytest.mark.parametrize("name", ["llama", "tied llama", "gpt2", "qwen3", "phi3"])
def test_it_is_right_for_what_most_people_fine_tune(name):
    assert branches.is_right(architectures.random_model(architectures.CONFIGS[name]).eval(), ROWS, NEW)


def test_answers_and_branches_of_other_lengths_are_given_row_by_row():
    model = architectures.random_model(architectures.CONFIGS["llama"]).eval()
    apart, together = read(model)
    assert [len(after) for after in together.after] == [len(after) for after in apart.after] == [8, 5, 1, 8]
    assert len(together.logits) == sum(label != -100 for each in ROWS for label in each["labels"])


@pytest.mark.slow
def test_a_model_that_remembers_what_it_read_reads_them_apart():
    small: dict[str, Any] = {**architectures.TOKENS, "hidden_size": 32}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32}
    configs = [
        MambaConfig(**small, num_hidden_layers=2, state_size=4),
        JambaConfig(**small, **heads, attn_layer_period=2, attn_layer_offset=1, num_experts=2, use_mamba_kernels=False),
        FalconH1Config(**small, **heads, mamba_d_ssm=32, mamba_n_heads=2, mamba_d_head=16, mamba_d_state=4),
        BloomConfig(**small, n_layer=2, n_head=2),  # its bias between positions is made from the mask
        MptConfig(vocab_size=264, d_model=32, n_layers=2, n_heads=2),
    ]
    for config in configs:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        assert not branches.is_right(model, ROWS, NEW), type(config).__name__


@pytest.mark.parametrize(("window", "is_right"), [(8, False), (44, False), (64, True)])
def test_a_sliding_window_is_seen_where_a_row_or_a_branch_reaches_beyond_it(window, is_right):
    config = copy.deepcopy(architectures.CONFIGS["mistral"])
    config.sliding_window = window
    model = architectures.random_model(config).eval()
    reach = 16  # tokens of a branch: the third row has a prompt of 32 tokens
    assert branches.is_right(model, ROWS, reach) is is_right
    assert branches.is_right(model, ROWS[:2], NEW) is (window > 8)


def test_a_model_whose_logits_depend_on_all_tokens_reads_them_apart():
    assert not branches.is_right(models.changing_logits(models.smoothed), ROWS, NEW)


def test_rows_that_fill_the_context_or_have_no_answer_are_read_apart():
    model = architectures.random_model(architectures.CONFIGS["llama"]).eval()
    model.config.max_position_embeddings = 52
    assert branches.fit(model, ROWS, [[1] * 7] * 4)  # the longest has 44 tokens, and one is asked for
    assert not branches.fit(model, ROWS, [[1] * 8] * 4)
    assert not branches.fit(model, [row(b"no answer")], [[1]])
    assert [after is None for after in branches.apart(model, ROWS, [[1] * 20] * 4).after] == [False] * 2 + [True, False]
