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


def evaluate(model, some, sizes):
    """Scores rows in batches of these sizes, the last rows first."""
    some, numbers = list(some), list(range(len(list(some))))[::-1]
    batches = []
    for size in sizes:
        batches.append((numbers[:size], batch([some[number] for number in numbers[:size]])))
        numbers = numbers[size:]
    return score.evaluate(model, [{"labels": labels.tolist()} for _, labels in some], batches)


def test_scores_do_not_depend_on_the_batches(model):
    together = evaluate(model, list(rows(7)), [7])
    alone = evaluate(model, list(rows(7)), [1] * 7)
    assert alone.loss == pytest.approx(together.loss, rel=1e-6)
    assert alone.nll == pytest.approx(together.nll, rel=1e-5)
    assert (alone.right.tolist(), alone.tokens.tolist()) == (together.right.tolist(), together.tokens.tolist())


def test_each_example_has_its_own_sums(model):
    some = list(rows(5))
    scores = evaluate(model, some, [3, 2])
    for number, (ids, labels) in enumerate(some):
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        wanted, known = labels[1:], labels[1:] != -100
        nll = torch.nn.functional.cross_entropy(logits[known], wanted[known], reduction="sum").item()
        assert scores.nll[number] == pytest.approx(nll, rel=1e-5)
        assert scores.right[number] == (logits[known].argmax(-1) == wanted[known]).sum()
        assert scores.tokens[number] == known.sum()
    assert scores.loss == scores.nll.sum() / scores.tokens.sum()


def test_evaluation_turns_dropout_off_and_on_again(model):
    model.train()
    evaluate(model, list(rows(2)), [2])
    assert model.training
