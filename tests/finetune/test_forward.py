import pytest
import torch
from datasets import Dataset
from transformers import Lfm2Config, Qwen3MoeConfig

from lowrung.config.schema import ModelConf
from lowrung.errors import UsageError
from lowrung.finetune import forward
from lowrung.finetune.data.prepared import FEATURES, Prepared
from tests import architectures, models

CONVOLUTION = Lfm2Config(
    **{k: v for k, v in architectures.SIZES.items() if k != "head_dim"}, layer_types=["conv", "full_attention"]
)


def prepared(*lengths):
    """Rows of these lengths, the last three tokens of each an answer; the same ones are held out."""
    rows = [{"input_ids": [*range(1, n + 1)], "labels": [-100] * (n - 3) + [*range(n - 2, n + 1)]} for n in lengths]
    dataset = Dataset.from_list(rows, features=FEATURES)
    return Prepared(dataset, dataset, truncated=0, truncated_tokens=0, has_prompts=True)


@pytest.fixture
def notes(monkeypatch):
    def notes(model, rows, *, new_tokens=0, scores=()):
        monkeypatch.setattr("lowrung.finetune.models.pretrained.load_base", lambda base, device: model)
        return forward.notes(ModelConf("mine"), rows, new_tokens=new_tokens, scores=scores)

    return notes


def small(name="llama", **changed):
    """A model whose context is 64 tokens."""
    sizes = architectures.GPT2_SIZES if name == "gpt2" else architectures.SIZES
    context = {"n_positions" if name == "gpt2" else "max_position_embeddings": 64}
    return architectures.random_model(type(architectures.CONFIGS[name])(**{**sizes, **context, **changed}))


def test_of_a_model_that_reads_the_data_there_is_nothing_to_say(notes):
    assert notes(small(), prepared(20, 40), new_tokens=12, scores=["exact_match"]) == []


def test_a_note_says_that_the_head_sees_all_tokens(notes):
    note, _ = notes(models.changing_logits(models.smoothed), prepared(20, 40))
    assert note.startswith("this model's forward pass does more with its head than predict each token by itself")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (CONVOLUTION, "does not keep examples in one row apart, although it has sdpa attention"),
        (
            architectures.CONFIGS["gemma2"],
            "has eager attention on a CPU, which takes no rows of unequal lengths as one",
        ),
    ],
    ids=["what goes on from token to token", "attention that cannot"],
)
def test_a_note_says_that_rows_are_padded(notes, config, why):
    (note,) = notes(architectures.random_model(config), prepared(20, 40))
    assert note == f"rows are padded to one length in training, which takes longer: this model's forward pass {why}"


def test_a_note_says_that_training_leaves_a_router_s_loss_out(notes):
    config = Qwen3MoeConfig(
        **architectures.SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, output_router_logits=True
    )
    (note,) = notes(architectures.random_model(config), prepared(20, 40))
    assert note.startswith("this model computes a loss of its own, ")
    assert note.endswith(": training takes that of the tokens, without terms such as a router's")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_note_counts_the_prompts_near_the_end_of_the_context(notes, name):
    rows = prepared(20, 64, 60, 55)
    (note,) = notes(small(name), rows, new_tokens=8)
    assert note.startswith("2 of 4 held-out prompts leave fewer than 8 of the model's 64 tokens")
    (note,) = notes(small(name), rows, scores=["exact_match"])  # four tokens: one more than the answers have
    assert note.startswith("1 of 4 held-out prompts leave fewer than 4 ")
    assert notes(small(name), rows) == []


@pytest.mark.slow
def test_a_context_that_no_config_states_is_found_out(notes):
    model = small("gpt2")
    model.config.n_positions = -1
    with pytest.raises(UsageError, match=r"with 70 tokens it raises IndexError.* Lower data\.max_length"):
        notes(model, prepared(20, 70))
    with pytest.raises(UsageError, match=r"with 67 tokens it raises IndexError"):
        notes(model, prepared(20, 60), new_tokens=10)


def test_a_model_that_cannot_read_the_rows_is_refused(notes):
    with pytest.raises(UsageError, match="The model must load and read a row of the data, but mine raises IndexError"):
        notes(small(vocab_size=30, pad_token_id=None, eos_token_id=None), prepared(20, 40))


def test_where_memory_is_short_nothing_is_said(notes):
    def exhausted(model, logits):
        raise torch.OutOfMemoryError

    assert notes(models.changing_logits(exhausted), prepared(20)) is None
