"""`lowrung compare` on runs that were trained with other settings."""

import shutil

import pytest

from lowrung.__main__ import main
from lowrung.adapters.multi_adapter import MultiAdapter
from lowrung.store.layout import RunFolder
from lowrung.store.outcome import Outcome, Status
from tests import sources, training
from tests.commands.conftest import change_config


def sections(printed):
    """The rows of both tables, by their first cell."""
    return [
        {line.split("  ")[0].strip(): line.split("  ")[1:] for line in part.splitlines()}
        for part in printed.split("\n\n")
    ]


def test_only_settings_that_differ_and_all_metrics_are_shown(here, capsys):
    main(["compare", "mine/0", "cd34", "--new-tokens", "0"])
    printed = capsys.readouterr().out
    settings, result = sections(printed)
    assert set(settings) == {"settings that differ", "lora.alpha", "lora.target_modules"}
    assert settings["lora.alpha"][-1].strip() == "4"
    assert "['q_proj', 'v_proj']" in printed
    runs = [RunFolder(here / "runs" / name) for name in ("ab12", "cd34")]
    first, second = (Outcome.read(run.outcome) for run in runs)
    assert first is not None
    assert second is not None
    assert set(result) == {"result", "status", *first.metrics, *second.metrics}
    losses = [float(cell) for cell in result["eval/loss"] if cell.strip()]
    assert losses == [float(f"{outcome.metrics['eval/loss']:.6g}") for outcome in (first, second)]


def test_a_run_without_an_outcome_is_unfinished(here, capsys):
    RunFolder(here / "runs" / "cd34").outcome.unlink()
    main(["compare", "ab12", "cd34", "--new-tokens", "0"])
    _, result = sections(capsys.readouterr().out)
    assert [cell.strip() for cell in result["status"] if cell.strip()] == ["complete", "unfinished"]


def test_fewer_than_two_and_what_is_no_run_are_refused(here, refused):
    assert "at least two runs, but has 1" in refused("compare", "ab12", "ab12")
    assert "--new-tokens must be at least 0, but is -1." in refused("compare", "ab12", "cd34", "--new-tokens", "-1")
    message = refused("compare", "ab12", "xy", "zz")
    assert message.startswith("2 errors:")


# -- answers -----------------------------------------------------------------------------------------------------------

SHORT = ("--new-tokens", "6")


def output(capsys, *arguments):
    """What a command prints."""
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def answers(printed):
    """What follows the two tables."""
    return printed.split("\n\n", 2)[2]


@pytest.fixture
def loads(monkeypatch):
    """The bases that are loaded."""
    bases = []
    load = MultiAdapter.__init__

    def noted(self, base, *args, **kwargs):
        bases.append(base.path)
        load(self, base, *args, **kwargs)

    monkeypatch.setattr(MultiAdapter, "__init__", noted)
    return bases


@pytest.mark.slow
def test_runs_on_one_base_answer_without_loading_it_twice(here, capsys, loads):
    asked = ("--prompt", "Write 47 in words.", "--prompt", "And 8?", *SHORT)
    printed = output(capsys, "compare", "mine/0", "cd34", *asked)
    assert len(loads) == 1
    assert answers(printed) == output(capsys, "generate", "mine/0", "cd34", *asked)


@pytest.mark.slow
def test_two_held_out_prompts_are_asked_by_default(here, capsys):
    printed = answers(output(capsys, "compare", "mine/0", "mine/1", *SHORT))
    held_out = sources.load(name="number_words", train_size=64, eval_size=24).eval[:2]
    prompts = [example.messages[0]["content"] for example in held_out]
    asked = [argument for prompt in prompts for argument in ("--prompt", prompt)]
    assert printed == output(capsys, "generate", "mine/0", "mine/1", *asked, *SHORT)


@pytest.fixture
def whole(here):
    """A run of which all weights were trained."""
    run = RunFolder(here / "runs" / "ef56")
    training.fine_tune(run.path, is_full=True)
    (run.path / "adapter").rename(run.model)
    for file in ("config", "environment", "outcome"):
        shutil.copy(getattr(RunFolder(here / "runs" / "ab12"), file), getattr(run, file))
    return run


@pytest.mark.slow
def test_a_run_without_an_adapter_answers_too(whole, capsys, loads):
    printed = answers(output(capsys, "compare", "mine/0", "ef56", "--prompt", "Write 47 in words.", *SHORT))
    alone = output(capsys, "generate", whole.model, "--prompt", "Write 47 in words.", *SHORT)
    assert f"  ef56: {alone.splitlines()[1].split(': ', 1)[1]}\n" in printed
    assert "  mine/0: " in printed
    assert loads[1] == str(whole.model)


class TestNoAnswers:
    def test_of_runs_that_did_not_end(self, here, capsys):
        for name in ("ab12", "cd34"):
            Outcome(Status.PRUNED, {}).write(RunFolder(here / "runs" / name).outcome)
        assert answers(output(capsys, "compare", "ab12", "cd34")) == "no answers: no run is complete\n"

    def test_where_the_data_is_gone(self, here, capsys):
        change_config(here, "ab12", "data", name="file", path="gone.jsonl")
        printed = answers(output(capsys, "compare", "ab12", "cd34"))
        assert printed.startswith("no answers: data.path")
        assert "gone.jsonl" in printed
        assert printed.endswith("Or give a prompt: --prompt TEXT.\n")

    def test_where_the_data_is_text_alone(self, here, capsys):
        sources.write_rows(here / "texts.jsonl", [{"text": f"text {n}"} for n in range(99)])
        change_config(here, "ab12", "data", name="file", path="texts.jsonl")
        printed = answers(output(capsys, "compare", "ab12", "cd34"))
        assert printed == "no answers: the first run's data has no prompts. Give one: --prompt TEXT.\n"
