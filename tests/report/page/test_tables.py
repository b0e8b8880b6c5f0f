from pathlib import Path

import pytest

from lowrung.report import page, plots
from lowrung.report.page import tables
from lowrung.report.record import COMPLETE, STATES, RunRecord, StudyRecord, TrialRecord
from lowrung.store.outcome import Status

LONG = "x" * 1000


def trial(number, samples):
    run = RunRecord(0, Status.COMPLETE, Path("run"), facts={} if samples is None else {"samples": samples})
    return TrialRecord(number, {"lora.r": "4"}, Status.COMPLETE, [run])


def sample(prompt, answer):
    return {"prompt": prompt, "expected": "the data's", "answer": answer}


def answers(*trials, preferred=None):
    study = StudyRecord("s", Path("s"), {"eval/loss": "minimize"}, (), trials, "complete", preferred=preferred)
    return tables.of(study)["answers"]


def test_answers_to_the_same_prompts_stand_side_by_side():
    shown = answers(
        trial(0, [sample("a", "0a"), sample(LONG, "0b")]),
        trial(1, [sample("a", "1a"), sample("other data", "1c")]),
        preferred=1,
    )
    assert shown.head == ["prompt", "in the data", "trial 1", "trial 0"]
    assert shown.cells == [["a", "the data's", "1a", "0a"], ["other data", "the data's", "1c", ""]]
    assert len(answers(trial(0, [sample(LONG, "")])).cells[0][0]) == tables.PROMPT + 2


def test_what_is_no_sample_is_not_shown():
    for odd in (None, [], "text", [3], [{"prompt": "a"}], [{**sample("a", "b"), "answer": None}]):
        shown = answers(trial(0, odd))
        assert (shown.cells, shown.about) == ([], tables.NO_ANSWERS)


def made(*trials, **more):
    return tables.of(StudyRecord("s", Path("s"), {"eval/loss": "minimize"}, (), trials, **more))


def test_what_was_asked_for_is_counted_whole():
    stopped = TrialRecord(1, {"lora.r": "8"}, None, [RunRecord(0, Status.CANCELLED, Path("stopped"))])
    rows = {row[0]: row[1:] for row in made(trial(0, None), stopped, state="interrupted", total=4)["done"].cells}
    assert rows["trials"] == ["4", "1 complete, 1 not ended, 2 not begun"]
    assert rows["runs"] == ["4", "1 ended"]


def test_what_cannot_be_ranked_has_no_rank_and_no_column_is_empty():
    pruned = TrialRecord(1, {"lora.r": "8"}, Status.PRUNED, cause="stopped at step 5", metrics={"stopped/step": 5})
    found = made(trial(0, None), pruned, state="complete", total=2)
    assert [row[0] for row in found["leaderboard"].cells] == ["-", "-"]
    assert found["leaderboard"].about == ""
    assert found["pruned"].head == ["trial", "settings", "step"]


@pytest.mark.parametrize("state", STATES)
def test_the_page_says_of_a_study_that_is_not_complete_what_it_is(state):
    study = StudyRecord("s", Path("s"), {"eval/loss": "minimize"}, (), [trial(0, None)], state)
    assert ('<p class="state">This study ' in page.render(study, plots.Drawn([], []))) == (state != COMPLETE)
