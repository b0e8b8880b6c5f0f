"""The trainer's losses are those that the model itself gives, whatever its forward pass does."""

import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from lowrung.config.schema import LoraConf
from lowrung.finetune.data.prepared import FEATURES, Prepared
from lowrung.finetune.models import head, pretrained
from lowrung.finetune.training.trainer import make_trainer
from tests import models, training

ROWS = [{"input_ids": [*range(1, n)], "labels": [-100] * 3 + [*range(4, n)]} for n in (9, 6, 14, 7)]


@pytest.fixture
def trainer(tmp_path):
    def trainer(model, **changed):
        rows = Dataset.from_list(ROWS, features=FEATURES)
        data = Prepared(rows, rows, truncated=0, truncated_tokens=0, has_prompts=True)
        made, _, _ = make_trainer(
            model,
            pretrained.load_tokenizer(pretrained.locate("embedded:tiny")),
            training.recipe(tmp_path, data, LoraConf("full"), max_length=32, **{"eval_batch_size": 3, **changed}),
            on_report=lambda step, metrics: None,
        )
        return made

    return trainer


def own_loss(model):
    ids, labels = ([torch.tensor(row[name], device=model.device) for row in ROWS] for name in ("input_ids", "labels"))
    logits = [model(input_ids=row[None]).logits[0, 2:-1] for row in ids]
    return functional.cross_entropy(torch.cat(logits), torch.cat([row[3:] for row in labels]))


def halved(model, logits):
    return 0.5 * logits + model.extra


@pytest.mark.parametrize(
    ("change", "packing"),
    [(halved, False), (halved, True), (models.smoothed, False)],
    ids=["each token by itself", "packed", "all positions"],
)
def test_the_losses_are_the_model_s_own(trainer, change, packing):
    model = models.changing_logits(change).requires_grad_(True)
    made = trainer(model, packing=packing)
    quickest = head.on_joined_rows if model.device.type == "cpu" else head.on_labelled_tokens
    assert made.labelled_logits is (quickest if change is halved else head.on_all_tokens)
    expected = own_loss(model)
    assert made.scores().loss == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(made.compute_loss(model, made.batch(ROWS)), expected)


@pytest.mark.parametrize("option", [{"neftune_noise_alpha": 5}, {"pad_to_multiple_of": 8}])
def test_rows_are_padded_where_an_option_of_trl_counts_a_batch_s_columns(trainer, option, capsys):
    made = trainer(models.changing_logits(halved).requires_grad_(True), sft=option)
    assert made.labelled_logits is head.on_labelled_tokens
    assert f"rows are padded, since train.sft has {next(iter(option))}\n" in capsys.readouterr().out
