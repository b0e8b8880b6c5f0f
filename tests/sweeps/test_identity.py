"""A study is what its resolved configs are, however they were written."""

import dataclasses
import re

import pytest

from lowrung.errors import UsageError
from tests.stage import RATE, SEEN, ranks

DRY = ("study=null", "hydra.sweeper.dry_run=true")


@pytest.fixture
def name(here, capsys):
    """The name that a search has where none is given."""

    def name_of(*overrides, **named):
        here.sweep(*overrides, *DRY, **named)
        found = re.search(r"study (\S+):", capsys.readouterr().out)
        assert found
        return found.group(1)

    return name_of


@pytest.mark.slow
class TestName:
    @pytest.mark.parametrize(
        "other",
        [
            ["lora.r= 8, 4", "train.learning_rate=1e-4"],
            ["train.learning_rate=${oc.decode:'0.0001'}", "lora.r=8,4"],
            ["lora.r=4,8", "train.learning_rate=1e-4", "train.max_steps=3", "train.max_steps=20"],
            ["lora.r=4,8", "train.learning_rate=1e-4", "track=none", "store=elsewhere", "hydra.sweep.dir=x/${study}"],
            ["lora.r=4,8", "train.learning_rate=1e-4", "lora.alpha=${oc.decode:'32'}", "hydra.launcher.workers=3"],
            ["++lora.r=4,8", "train.learning_rate=0.00010", "data.path=${now:%S}.jsonl", "hydra.sweeper.n_trials=1"],
        ],
    )
    def test_the_same_search_in_other_words_is_the_same_study(self, name, other):
        assert name("lora.r=4,8", "train.learning_rate=0.0001") == name(*other)

    @pytest.mark.parametrize(
        "other",
        [
            ["lora.r=4,8", "train.max_steps=10"],
            ["lora.r=4,8", "lora.alpha=${lora.r}"],
            ["lora.r=4,8", "hydra/sweeper/pruner=asha"],
            ["lora.r=4,8,16"],
            ["lora.r=4,8", "seed=0,1"],
        ],
    )
    def test_what_changes_results_makes_another_study(self, name, other):
        assert name("lora.r=4,8") != name(*other)

    def test_data_count_by_their_content(self, name):
        seen = dataclasses.replace(SEEN, data_fingerprint="others")
        assert name("lora.r=4,8") != name("lora.r=4,8", seen=seen)
        assert name("lora.r=4,8", seen=seen) == name("lora.r=4,8", "data.seed=3", seen=seen)

    def test_a_formula_counts_at_both_ends_of_an_interval(self, name):
        search = ["lora.r=int(interval(1,8))", "hydra.sweeper.n_trials=2"]
        assert name(*search, "lora.alpha=${lora.r}") != name(*search, "lora.alpha=1")

    def test_a_value_of_the_environment_counts_by_itself(self, name, monkeypatch):
        monkeypatch.setenv("STEPS", "20")
        first = name("lora.r=4,8", "train.max_steps=${oc.env:STEPS}")
        assert first == name("lora.r=4,8", "train.max_steps=20")
        monkeypatch.setenv("STEPS", "10")
        assert first != name("lora.r=4,8", "train.max_steps=${oc.env:STEPS}")


@pytest.mark.slow
class TestNamedStudy:
    def test_what_has_changed_is_said_and_old_trials_teach_nothing(self, here):
        search = ["lora.r=4,8", RATE]
        here.sweep(*search, n_trials=2)
        with pytest.raises(UsageError) as caught:
            here.sweep(*search, "train.max_steps=10", "lora.dropout=0.1", n_trials=3)
        assert "'s' was made for another: lora.dropout was 0.0, and is 0.1 now; train.max_steps was 20" in str(
            caught.value
        )
        assert here.ran == []
        assert len(here.sweep(*search, "train.max_steps=10", "hydra.sweeper.fresh=true", n_trials=1)) == 1
        assert len(here.trials()) == 1

    def test_another_number_of_trials_goes_on(self, here):
        here.sweep("lora.r=4", RATE, n_trials=1)
        assert len(here.sweep("lora.r=4", RATE, n_trials=2)) == 1

    def test_changed_data_are_explained_by_their_settings(self, here):
        here.sweep("lora.r=4")
        seen = dataclasses.replace(SEEN, data_fingerprint="others")
        with pytest.raises(UsageError, match=r"another: data\.seed was 0, and is 3 now\. Choose"):
            here.sweep("lora.r=4", "data.seed=3", seen=seen)


@pytest.mark.slow
@pytest.mark.parametrize("study", ["größe ü=1", "a,b", "it's", "{x}", "${x}", "1e3", "true", " a", "-x", "a.", "😀"])
def test_any_name_that_a_folder_can_have(here, study):
    from lowrung.config import grammar

    assert (
        ranks(here.sweep("lora.r=4", f"study={grammar.quote(grammar.literal(study))}", "hydra.sweeper.dry_run=true"))
        == []
    )
    assert here.results
    assert here.results.folder.path.name == study


@pytest.mark.parametrize("study", ["''", "x/y", "..", "x" * 256, "'a\udcff'"])
def test_any_other_name_is_refused_at_once(here, study):
    with pytest.raises(UsageError, match="study must be the name of a folder"):
        here.sweep("lora.r=4", f"study={study}")
