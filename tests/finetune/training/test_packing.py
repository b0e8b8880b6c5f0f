import pytest
import torch
from datasets import Dataset
from transformers import BloomConfig, FalconMambaConfig, Lfm2Config, OpenAIGPTConfig

from lowrung.config.schema import LoraConf
from lowrung.errors import UsageError
from lowrung.finetune.data.prepared import FEATURES, Prepared
from lowrung.finetune.lora import adapter
from lowrung.finetune.models import head, pretrained, score
from lowrung.finetune.training.packing import leakage, pack, require_separation
from lowrung.finetune.training.trainer import make_trainer
from tests import architectures, training

LEAKING = {
    "a recurrent state": FalconMambaConfig(vocab_size=264, hidden_size=64, num_hidden_layers=2, state_size=8),
    "distances of its own": BloomConfig(vocab_size=264, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.1),
    # Its positions are learnt and restart, which changes more than what it sees of the example before.
    "a mask of its own": OpenAIGPTConfig(vocab_size=264, n_embd=64, n_layer=2, n_head=4, initializer_range=0.1),
    "a short convolution": Lfm2Config(**architectures.SIZES, layer_types=["conv", "full_attention"]),
}


def rows():
    """Examples of many lengths; the first token has a label too, which packing must not teach the one before."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for length in range(3, 40, 3):
        ids = torch.randint(0, 256, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": ids if length % 2 else [-100] * 2 + ids[2:]})
    return made


def random_model(name):
    return architectures.random_model(architectures.CONFIGS[name])


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_attention_keeps_packed_examples_apart(name):
    model = random_model(name)
    assert leakage(model) == 0  # to the bit: what is masked adds zeros
    assert leakage(model.to(torch.bfloat16)) == 0
    require_separation(model)


@pytest.mark.filterwarnings("ignore")  # what transformers says of missing kernels
@pytest.mark.parametrize("what", LEAKING)
def test_a_model_that_mixes_packed_examples_is_refused(what):
    model = architectures.random_model(LEAKING[what])
    assert leakage(model) > 0.5  # measured: 0.95 and more
    with pytest.raises(UsageError, match=r"train\.packing needs a model that keeps packed examples apart"):
        require_separation(model)


@pytest.mark.parametrize(("lora", "added_rows"), [({}, [5, 6]), ({"modules_to_save": ["embed_tokens"]}, [])])
def test_separation_is_tested_whatever_part_of_the_embedding_is_trained(lora, added_rows):
    model = adapter.attach(random_model("llama"), LoraConf(**{**training.LORA, **lora}), added_rows=added_rows)
    assert leakage(model) == 0


def test_the_separation_test_leaves_the_model_in_its_mode():
    model = random_model("llama")
    assert [leakage(model.train(mode)) == 0 and model.training is mode for mode in (True, False)] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_the_loss_of_packed_rows_is_that_of_the_same_rows_one_by_one(name, tmp_path):
    """Through the trainer's own batches, several packed rows in each."""
    model = random_model(name)
    with torch.no_grad():
        alone = sum(
            score.negative_log_likelihood(*head.on_all_tokens(model, {k: torch.tensor([v]) for k, v in row.items()}))
            for row in rows()
        )
    dataset = Dataset.from_list(rows(), features=FEATURES)
    data = Prepared(dataset, dataset, truncated=0, truncated_tokens=0, has_prompts=True)
    trainer, _, _ = make_trainer(
        model,
        pretrained.load_tokenizer(pretrained.folder_of(architectures.base(name))),
        training.recipe(tmp_path, data, LoraConf(**training.LORA), max_length=64, packing=True, batch_size=3),
        on_report=lambda step, metrics: None,
    )
    batches = list(trainer.get_train_dataloader())
    with torch.no_grad():
        packed = sum(trainer.compute_loss(model, batch, num_items_in_batch=1) for batch in batches)
    assert 1 < len(batches) < len(rows()) / 3
    assert float(packed) == pytest.approx(float(alone), rel=1e-5)


def test_packing_keeps_every_token_and_label_once():
    packed = pack(Dataset.from_list(rows(), features=FEATURES), 64)
    found = []
    for row in packed:
        assert sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"]) <= 64
        start = 0
        for length in row["seq_lengths"]:
            piece = slice(start, start + length)
            found.append({"input_ids": row["input_ids"][piece], "labels": row["labels"][piece]})
            start += length
    assert len(packed) < len(rows())
    assert sorted(found, key=lambda row: len(row["input_ids"])) == rows()
