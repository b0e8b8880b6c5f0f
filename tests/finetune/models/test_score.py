import pytest
import torch

from lowrung.finetune.models import score
from tests import architectures


@pytest.fixture
def model():
    return architectures.random_model(architectures.CONFIGS["llama"])


def rows(count):
    generator = torch.Generator().manual_seed(1)
    for length in range(4, 4 + count):
        ids = torch.randint(1, 50, (length,), generator=generator)
        labels = ids.clone()
        labels[: length // 2] = -100
        yield ids, labels


def batch(some):
    some = list(some)
    width = max(len(ids) for ids, _ in some)

    def padded(tensors, value):
        return torch.stack([torch.nn.functional.pad(t, (0, width - len(t)), value=value) for t in tensors])

    return {
        "input_ids": padded([ids for ids, _ in some], 0),
        "labels": padded([labels for _, labels in some], -100),
        "attention_mask": padded([torch.ones_like(ids) for ids, _ in some], 0),
    }


def test_scores_do_not_depend_on_the_batches(model):
    together = score.evaluate(model, [batch(rows(7))])
    alone = score.evaluate(model, [batch([row]) for row in rows(7)])
    assert alone.loss == pytest.approx(together.loss, rel=1e-6)
    assert (alone.token_accuracy, alone.tokens) == (together.token_accuracy, together.tokens)


def test_evaluation_turns_dropout_off_and_on_again(model):
    model.train()
    score.evaluate(model, [batch(rows(2))])
    assert model.training
