"""What libraries warn of, as a run and a sweep show it."""

import logging

import pytest

from lowrung.report.warned import MOST, Warnings
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder


@pytest.fixture
def run(tmp_path):
    """Makes a run that has ended, with warnings of PEFT's."""

    def make(number: int, *texts: str) -> tuple[str, RunFolder]:
        folder = RunFolder(tmp_path / str(number))
        folder.path.mkdir()
        for text in texts:
            mailbox.warn(folder.path, {"library": "peft", "text": text})
        return f"trial {number}", folder

    return make


def test_each_kind_is_shown_once_with_the_first_run_that_had_it(run, tmp_path):
    said: list[str] = []
    shown = Warnings(said.append)
    for ended in (run(0, "1 key is missing"), run(1, "2 key is missing", "another"), run(2)):
        shown.of_run(*ended)
    assert said == [
        f"warning of peft, from trial 0: 1 key is missing (said once; read {tmp_path}/0/log.txt)",
        f"warning of peft, from trial 1: another (said once; read {tmp_path}/1/log.txt)",
    ]


def test_one_that_is_worded_anew_each_time_does_not_fill_the_screen(run):
    said: list[str] = []
    Warnings(said.append).of_run(*run(0, *("a" * length for length in range(1, 3 * MOST))))
    assert len(said) == MOST + 1
    assert said[-1].startswith("warning: libraries warn of more, from trial 0, which is not shown (said once; read /")


def test_the_sweep_s_own_process_is_heard_too(run):
    said: list[str] = []
    shown = Warnings(said.append)
    with shown.of_this_process():
        logging.getLogger("optuna.storages").warning("the storage is slow")
    logging.getLogger("optuna.storages").warning("after it")
    assert said == ["warning of optuna: the storage is slow"]
