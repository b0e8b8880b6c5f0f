import pytest
import torch

from lowrung.costs import memory_formulas
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_in_pieces_is_torchs_own_with_its_gradient(dtype, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(23, 50, generator=generator, dtype=dtype) * 5
    logits[:, 7] = -torch.inf  # as a model masks words out
    labels = torch.randint(8, 50, (23,), generator=generator)
    monkeypatch.setitem(score.PIECE, "cpu", 5 * 50)
    theirs, ours = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(theirs.float(), labels, reduction="sum")
    found = score.negative_log_likelihood(ours, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (expected / 3).backward()
    (found / 3).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)  # of one precision, too


def test_no_labelled_token_is_a_loss_of_0_with_a_gradient():
    logits = torch.zeros(0, 50, requires_grad=True)
    found = score.negative_log_likelihood(logits, torch.zeros(0, dtype=torch.long))
    found.backward()
    assert found.item() == 0.0
    assert logits.grad is not None


def test_the_plan_knows_how_much_of_a_softmax_is_held_at_once():
    assert memory_formulas.SOFTMAX == score.PIECE


def test_evaluation_turns_dropout_off_and_on_again(model):
    model.train()
    evaluate(model, list(rows(2)), [2])
    assert model.training
