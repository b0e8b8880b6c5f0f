"""Adapters and merged models from Python, by the names that commands take."""

import pytest

from lowrung.adapters import files
from lowrung.commands.generate import generate
from lowrung.commands.loading import load_adapters
from lowrung.commands.merge import merge
from lowrung.errors import UsageError
from lowrung.finetune.models import pretrained

PROMPTS = ["Write 47 in words.", "Write 8 in words."]


@pytest.mark.slow
def test_adapters_are_loaded_by_their_names_and_combined(here, adapter):
    adapters = load_adapters("mine/0", adapter)
    assert adapters.names == ("mine/0", str(adapter))
    assert adapters.active is None
    adapters.combine("both", {"mine/0": 0.5, str(adapter): 0.5})
    adapters.save("both", here / "both")
    assert files.read(here / "both").config.r == adapters.rank("both") == 4


def test_the_tokenizer_is_the_active_adapter_s_or_the_base_s(here):
    adapters = load_adapters("mine/0")
    of_base = adapters.tokenizer
    adapters.switch("mine/0")
    assert adapters.tokenizer.name_or_path == str(here / "runs" / "ab12" / "adapter")
    assert of_base.name_or_path == str(pretrained.folder_of(adapters.base))
    assert adapters.tokenizer(PROMPTS[0])["input_ids"] == of_base(PROMPTS[0])["input_ids"]


def test_at_least_one_is_needed():
    with pytest.raises(UsageError, match="at least one adapter"):
        load_adapters()


def test_adapters_of_two_bases_are_refused(here):
    config = here / "runs" / "cd34" / "config.yaml"
    config.write_text(config.read_text().replace("embedded:tiny", "embedded:tiny_gpt2"))
    with pytest.raises(UsageError, match="Adapters must share their base"):
        load_adapters("mine/0", "mine/1")


@pytest.mark.slow
def test_merge_returns_where_the_model_is_and_how_far_it_is_from_the_adapter(here):
    merged = merge("mine/0", "merged", dtype="float32")
    assert merged.folder == here / "merged"
    assert merged.difference.max_abs_logit_diff < 1e-3
    assert merged.difference.mean_kl < merged.effect
    assert {"config.json", "model.safetensors", "README.md"} <= {file.name for file in merged.folder.iterdir()}


@pytest.mark.slow
def test_answers_come_by_the_names_of_the_models(here):
    answers = generate(["mine/0", "mine/1"], PROMPTS, new_tokens=8, with_base=True)
    assert list(answers) == ["mine/0", "mine/1", "base"]
    assert all(len(texts) == len(PROMPTS) for texts in answers.values())
    assert answers["mine/0"] != answers["base"]
