import copy

import pytest
import torch

from lowrung.config.schema import ToleranceConf
from lowrung.finetune.gate.case import Evidence
from lowrung.finetune.gate.difference import completion_logits, mean_loss, padded
from lowrung.finetune.models import attention, head
from lowrung.finetune.models.ends import Ends
from tests import architectures, models

ROWS = [{"input_ids": [*range(1, n)], "labels": [-100, *range(2, n)]} for n in (9, 5, 12)]
TOLERANCES = {"float32": ToleranceConf(1e-3, 1e-5, 0.99, 1e-3)}


@pytest.fixture
def model():
    return models.changing_logits(models.smoothed)


def test_the_reference_is_what_the_model_itself_says(model):
    logits, labels = completion_logits(model, ROWS)
    alone = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1] for row in ROWS]
    torch.testing.assert_close(logits, torch.cat(alone))
    loss = torch.nn.functional.cross_entropy(torch.cat(alone), labels).item()
    assert mean_loss(model, ROWS, batch_size=2) == pytest.approx(loss, rel=1e-5)


def short(model, batch):
    """What the head gives, without what the model does to it."""
    hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    is_labelled = batch["labels"][:, 1:] != -100
    return model.lm_head(hidden[:, :-1][is_labelled]), batch["labels"][:, 1:][is_labelled]


def moved(model):
    """A copy in which one weight is another."""
    other = copy.deepcopy(model)
    other.model.norm.weight.data[0] += 1
    return other


@pytest.mark.parametrize(
    ("way", "change", "wrong"),
    [
        (head.on_all_tokens, copy.copy, set()),
        (short, copy.copy, {"training"}),
        (head.on_all_tokens, moved, {"reloaded"}),
        (short, moved, {"reloaded", "training"}),
        (None, moved, {"reloaded"}),
    ],
)
def test_a_loss_from_other_logits_and_a_model_that_was_saved_wrong_are_told_apart(model, way, change, wrong):
    evidence, saved = Evidence.of(model, ROWS, torch.float32, Ends(), way), change(model)
    failures = evidence.failures(saved, *completion_logits(saved, ROWS), TOLERANCES, "reloaded")
    assert {failure.split(":")[0] for failure in failures} == wrong
    assert sum("max |Δlogit| must be <= 0.001, but is " in failure for failure in failures) == len(wrong)


def test_rows_that_are_joined_in_training_are_joined_to_say_what_is_wrong():
    plain = architectures.random_model(architectures.CONFIGS["llama"]).eval()
    trained, saved = copy.deepcopy(plain), moved(plain)
    way = head.choose(trained, padded(ROWS, trained))
    assert way is head.on_joined_rows
    evidence = Evidence.of(trained, ROWS, torch.float32, Ends(), way)
    failures = evidence.failures(saved, *completion_logits(saved, ROWS), TOLERANCES, "reloaded")
    assert {failure.split(":")[0] for failure in failures} == {"reloaded"}
    assert attention.name(saved) == attention.name(plain)


def test_logits_that_the_last_evaluation_had_are_not_computed_again(model):
    logits, labels = completion_logits(model, ROWS)
    known = torch.split(logits, [len(row["labels"]) - 1 for row in ROWS])[:2]
    asked = []

    def way(model, batch):
        asked.append(len(batch["labels"]))
        return head.on_all_tokens(model, batch)

    evidence = Evidence.of(model, ROWS, torch.float32, Ends(), way, known)
    assert asked == [1]
    torch.testing.assert_close(evidence.logits, logits)
    assert evidence.failures(model, logits, labels, TOLERANCES, "reloaded") == []
