"""What a person sees of a sweep with two workers: in a pseudo-terminal that is resized meanwhile, and in a log."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

import pyte
import pytest

from tests.terminal import command, environment, train

pytestmark = pytest.mark.slow

SWEEP = (
    *("-m", "model=tiny", "data=number_words", "lora.r=2,4,8", "train.max_steps=8", "track=none", "study=seen"),
    *("data.train_size=64", "data.eval_size=16", "verify.prompts=2", "verify.new_tokens=2"),
    *("hydra.launcher.workers=2", "data.metrics=[planted.odd]"),
)

PLANTED = """
import logging, warnings

def odd(predictions, references, *rest):
    warnings.warn(f"planted in Python at {id(predictions)}")
    logging.getLogger("transformers.planted").warning("planted in a log")
    return 0.0
"""


class Seen:
    """What a command sent to a terminal, its screen at the end and in the middle, and how it ended."""

    def __init__(self, folder: Path, *, sizes: tuple[tuple[int, int], ...]) -> None:
        ours, its = pty.openpty()
        self.screen = pyte.HistoryScreen(sizes[0][1], sizes[0][0], history=1000)
        self.middle: list[list[str]] = []
        _resize(its, self.screen, *sizes[0])
        started = subprocess.Popen(
            command(*SWEEP), cwd=folder, env=environment(TERM="xterm"), stdin=its, stdout=its, stderr=its
        )
        os.close(its)
        self.sent, stream, left = b"", pyte.ByteStream(self.screen), list(sizes[1:])
        while data := _read(ours):
            self.sent += data
            stream.feed(data)
            if left and self.sent.count(b"step") + self.sent.count(b"loss") > 20 * (len(sizes) - len(left)):
                self.middle.append(self.rows)
                _resize(ours, self.screen, *left.pop(0))
        self.code = started.wait()
        os.close(ours)

    @property
    def rows(self) -> list[str]:
        """The screen, without empty lines."""
        return [line.rstrip() for line in self.screen.display if line.strip()]


def _resize(terminal: int, screen: pyte.Screen, lines: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    screen.resize(lines, columns)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # its other end was closed
        return b""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("seen")
    (made / "planted.py").write_text(PLANTED)
    return made


@pytest.fixture(scope="module")
def seen(folder: Path) -> Seen:
    # It grows: where a terminal narrows, rows break over several lines, and the terminal says what is left of them.
    return Seen(folder, sizes=((60, 80), (60, 140)))


@pytest.fixture(scope="module")
def logged(seen: Seen, folder: Path) -> "subprocess.CompletedProcess[str]":
    """The same again, of which all is known, into a log of ASCII in a CI that forces colours."""
    return train(folder, *SWEEP, FORCE_COLOR="1", PYTHONIOENCODING="ascii", COLUMNS="40")


def test_the_live_rows_leave_no_trace(seen: Seen) -> None:
    assert seen.code == 0
    assert not [row for row in seen.rows if re.search(r"\b\d+/8\b", row)]
    assert sum(row.startswith("trial ") and "complete in" in row for row in seen.rows) == 3
    assert sum("verdict:" in row for row in seen.rows) == 1


def test_a_sweep_of_three_is_less_than_two_screens(seen: Seen) -> None:
    assert len(seen.rows) <= 48


def test_a_library_s_warning_is_said_once_with_its_run_and_the_file_to_read(seen: Seen, folder: Path) -> None:
    printed = " ".join(" ".join(seen.rows).split())
    for text in ("planted in Python", "planted in a log"):
        assert printed.count(text) <= 2  # one of the preflight, one of a run
    [one] = re.findall(r"warning of transformers, from trial \d[^:]*: planted in a log", printed) or [""]
    assert one
    logs = [file.read_text() for file in folder.glob("runs/*/log.txt")]
    assert len(logs) == 3
    assert all("planted in Python" in log and "planted in a log" in log for log in logs)


def test_a_log_has_no_control_codes_and_no_characters_that_it_lacks(logged: "subprocess.CompletedProcess[str]") -> None:
    assert logged.returncode == 0, logged.stderr
    assert logged.stdout.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", logged.stdout)
    assert "->" in logged.stdout
    assert "+/-" in logged.stdout


def test_at_forty_columns_each_trial_is_a_block_with_all_it_has(logged: "subprocess.CompletedProcess[str]") -> None:
    for title in ("trial", "lora.r", "trainable", "eval loss", "seconds"):
        assert len(re.findall(rf"^{re.escape(title)}  +\S", logged.stdout, re.MULTILINE)) == 3
