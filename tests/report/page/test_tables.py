from pathlib import Path

from lowrung.report.page import tables
from lowrung.report.record import RunRecord, StudyRecord, TrialRecord
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
