"""A sweep's answer: printed, written, noted in the tracker; and what is said before anything runs."""

import json
import re

import pytest

from lowrung.config.schema import Config
from lowrung.errors import UsageError
from lowrung.runs import task
from lowrung.store.outcome import Outcome
from lowrung.sweeps.answer import NOTE_LENGTH, Answer
from tests import evidence
from tests.stage import Stage

BY_RANK = {4: 0.001, 8: 0.0, 16: 0.4}
TIE = "lora.r=4 and 8 tie (95%); the cheapest is lora.r=4 (trial 0, 400 trainable parameters)"


def scored(config: Config) -> Outcome:
    """A run that leaves its scores by held-out example."""
    assignment = task.assigned()
    assert assignment is not None
    left = evidence.run(
        assignment.folder.path,
        config.seed,
        loss=BY_RANK[config.lora.r],
        spread=0.02,
        name=str(config.lora.r),
        params__trainable=100.0 * config.lora.r,
    )
    return left.outcome


@pytest.mark.slow
def test_it_is_printed_written_and_tracked(here: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    here.sweep("lora.r=4,8,16", "lora.alpha='${twice:${lora.r}}'", act=scored)
    said = capsys.readouterr().out
    assert said.index("note: ranks 4, 8 and 16 are compared at one learning rate") < said.index("trial 0")
    assert f"\nverdict: {TIE}\n" in said
    assert "\nwarning: ranks 4, 8 and 16 are compared at one learning rate" in said

    record = json.loads(here.study.verdict.read_text())
    assert (record["verdict"], record["best"], record["ties"], record["preferred"]) == (TIE, 1, [0, 1], 0)
    rows = {row["trial"]: row["against_best"] for row in json.loads(here.study.leaderboard.read_text())}
    assert {number: row["place"] for number, row in rows.items()} == {0: "tie", 1: "best", 2: "worse"}
    assert rows[2] == record["trials"]["2"]

    (parent,) = (run for run in here.tracker.runs.values() if not run.parent)
    assert (parent.tags["lowrung.verdict"], parent.tags["lowrung.ties"]) == (TIE, "0,1")
    assert parent.tags["mlflow.note.content"].startswith(f"**{TIE}**\n")
    assert "| 3 | 2 | 16 | 1,600 |" in parent.tags["mlflow.note.content"]
    assert "verdict.json" in parent.artifacts

    assert here.results is not None
    assert str(here.results.answer) in said


@pytest.mark.slow
def test_another_order_of_ties_is_the_same_study(here: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    here.sweep("lora.r=4,8", act=scored)
    assert here.sweep("lora.r=4,8", "hydra.sweeper.prefer=[eval/loss]", "hydra.sweeper.difference=0.2") == []
    said = capsys.readouterr().out
    assert "the smallest eval/loss has lora.r=8 (trial 1, eval/loss 2.5" in said
    assert "What ties is equal to the best within hydra.sweeper.difference=0.2." in said


@pytest.mark.parametrize(
    ("settings", "problems"),
    [
        (
            ["prefer=[params/trainible,lora.r,eval/exact_match]", "difference=0"],
            [
                r"prefer must be one of params/trainable, .*'params/trainible'\. Did you mean params/trainable\?",
                r"prefer must be one of params/trainable, .*'lora\.r'",
                r"prefer must be one of params/trainable, .*'eval/exact_match'",
                "prefer takes costs, of which the smallest wins",
                "difference must be a number above 0, but is 0",
            ],
        ),
        (
            ["prefer=[]", "difference=nan"],
            [r"prefer must be a list such as .* but is \[\]", "difference must .* is nan"],
        ),
        (["prefer=[forget/loss_delta]"], ["prefer must name metrics that every run has, but forget/loss_delta is not"]),
    ],
)
def test_settings_that_ask_for_nothing(here: Stage, settings: list[str], problems: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        here.sweep("lora.r=4,8", *(f"hydra.sweeper.{setting}" for setting in settings))
    assert len(raised.value.problems) == len(problems)
    for said, expected in zip(raised.value.problems, problems, strict=True):
        assert re.match(f"hydra.sweeper.{expected}", said)


def test_a_note_has_room_for_as_many_trials_as_the_tracker_keeps(tmp_path):
    from lowrung.report import verdict

    few = evidence.ranks(tmp_path, 0.0, 0.001)
    rows = [evidence.trial(n, {"lora.target_modules": f"{n} {'q_proj,' * 90}"}, *few[n % 2].seeds) for n in range(20)]
    answer = Answer(rows, {"eval/loss": "minimize"}, verdict.make(rows, {"eval/loss": "minimize"}))
    note = answer.tags["mlflow.note.content"]
    assert NOTE_LENGTH - 1000 < len(note) <= NOTE_LENGTH
    assert note.endswith("more trials: leaderboard.json")
