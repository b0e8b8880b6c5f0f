import pytest
import torch

from lowrung.finetune.models import head, score
from tests import architectures


@pytest.fixture(params=["llama", "gemma2"], ids=["llama", "capped logits"])
def model(request):
    return architectures.random_model(architectures.CONFIGS[request.param])


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


def test_labelled_logits_are_the_model_s_own_where_there_is_a_label(model):
    inputs = batch(rows(5))
    logits, labels = head.on_labelled_tokens(model, inputs)
    full = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    chosen = inputs["labels"][:, 1:] != -100
    torch.testing.assert_close(logits, full[chosen])
    assert torch.equal(labels, inputs["labels"][:, 1:][chosen])


def test_the_loss_is_the_model_s_own(model):
    inputs = batch(rows(5))
    logits, labels = head.on_labelled_tokens(model, inputs)
    loss = score.negative_log_likelihood(logits, labels) / labels.numel()
    torch.testing.assert_close(loss, model(**inputs).loss)


def test_scores_do_not_depend_on_the_batches(model):
    together = score.evaluate(model, [batch(rows(7))])
    alone = score.evaluate(model, [batch([row]) for row in rows(7)])
    assert alone.loss == pytest.approx(together.loss, rel=1e-6)
    assert (alone.token_accuracy, alone.tokens) == (together.token_accuracy, together.tokens)


def test_evaluation_turns_dropout_off_and_on_again(model):
    model.train()
    score.evaluate(model, [batch(rows(2))])
    assert model.training
