import pytest
import torch

from lowrung.config.schema import ToleranceConf
from lowrung.finetune.gate.case import Evidence
from lowrung.finetune.gate.difference import completion_logits, mean_loss
from lowrung.finetune.models import head
from lowrung.finetune.models.ends import Ends
from tests import models

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


def test_a_loss_that_was_not_computed_from_it_fails_the_gate(model):
    def short(model, batch):  # what the head gives, without what the model does to it
        hidden = model.model(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
        is_labelled = batch["labels"][:, 1:] != -100
        return model.lm_head(hidden[:, :-1][is_labelled]), batch["labels"][:, 1:][is_labelled]

    assert Evidence.of(model, ROWS, torch.float32, Ends(), head.on_all_tokens).failures(TOLERANCES) == []
    failures = Evidence.of(model, ROWS, torch.float32, Ends(), short).failures(TOLERANCES)
    assert failures[0].startswith("training: max |Δlogit| must be <= 0.001, but is ")
