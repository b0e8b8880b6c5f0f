"""One document on stdout, whatever happens: `lowrung.report.printer` below `lowrung.cli.run`."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from lowrung import cli
from lowrung.errors import Interrupted, LowrungError, UsageError
from lowrung.report.printer import SHAPE, Printer, plain
from lowrung.store.layout import ROOT
from lowrung.store.outcome import Numbers, Status
from lowrung.version import __version__
from tests.terminal import PATIENCE

HEAD = {"lowrung": __version__, "shape": SHAPE, "command": "try"}


@dataclasses.dataclass(frozen=True)
class Found:
    folder: Path
    loss: float

    def __str__(self) -> str:
        return f"loss {self.loss}"


@dataclasses.dataclass(frozen=True)
class More:
    words: tuple[str, ...] = ("ü",)

    def __str__(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def printed(capsys):
    """Runs a command with --json; gives its exit code and its document."""

    def run(command):
        try:
            cli.run(command, Printer("try", as_json=True))
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, json.loads(capsys.readouterr().out)

    return run


def test_values_are_as_json_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {
        "path": Path("here"),
        "status": Status.OOM,
        "numbers": Numbers({"eval/loss": math.nan, "other": 2.5}),
        "array": [numpy.float32(0.5), numpy.int64(3), numpy.float64("inf")],
        3: {"b", "a"},
        "inner": (Found(Path("/x"), -math.inf), None, True),
    }
    assert plain(values) == {
        "path": f"{tmp_path}/here",
        "status": "oom",
        "numbers": {"eval/loss": None, "other": 2.5},
        "array": [0.5, 3, None],
        "3": ["a", "b"],
        "inner": [{"folder": "/x", "loss": None}, None, True],
    }


def test_a_result_is_text_or_one_document(printed, capsys):
    found = Found(Path("/there"), 1.5)
    cli.run(lambda: found)
    assert capsys.readouterr().out == "loss 1.5\n"
    assert printed(lambda: found) == (0, {**HEAD, "folder": "/there", "loss": 1.5})


def test_parts_are_printed_as_they_come_and_are_one_document(printed, capsys):
    seen = []

    def parts() -> Iterator[Found | More]:
        yield Found(Path("/there"), 1.5)
        seen.append(capsys.readouterr().out)
        yield More(())  # nothing to say
        yield More()

    cli.run(parts)
    assert [*seen, capsys.readouterr().out] == ["loss 1.5\n", "\nü\n"]
    assert printed(parts) == (0, {**HEAD, "folder": "/there", "loss": 1.5, "words": ["ü"]})


@pytest.mark.parametrize(
    ("error", "code", "problems"),
    [
        (UsageError(["a must be b.", "c must be d."]), 2, ["a must be b.", "c must be d."]),
        (LowrungError("The merge differs."), 1, ["The merge differs."]),
        (ZeroDivisionError("odd"), 1, None),
        (KeyboardInterrupt(), 130, ["The command was interrupted by Ctrl-C."]),
        (Interrupted(15), 143, ["The command was interrupted by SIGTERM."]),
        (Interrupted(1), 129, ["The command was interrupted by SIGHUP."]),
    ],
)
def test_an_error_is_in_the_document_beside_what_was_found(printed, error, code, problems):
    def fails() -> Iterator[More]:
        yield More()
        raise error

    ended, document = printed(fails)
    assert ended == code == document["error"]["exit_code"]
    assert document["words"] == ["ü"]
    if problems is None:
        (said,) = document["error"]["problems"]
        assert "ZeroDivisionError: odd" in said
    else:
        assert document["error"]["problems"] == problems


def test_a_command_that_goes_on_has_answered_before(capsys):
    printer = Printer("try", as_json=True)
    seen = []

    def serves() -> None:
        printer.answer(More())
        seen.append(capsys.readouterr().out)
        print("a request")

    cli.run(serves, printer)
    assert json.loads(seen[0]) == {**HEAD, "words": ["ü"]}
    assert capsys.readouterr() == ("", "a request\n")


NOISY = """
import os, subprocess, sys
from lowrung import cli
from lowrung.report.printer import Printer

def command():
    print("printed")
    os.write(1, b"by a library in C\\n")
    subprocess.run(["echo", "by a child"])

cli.run(command, Printer("try", as_json=True))
print("after")
"""


def test_what_others_print_goes_to_stderr(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NOISY],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "LC_ALL": "C", "PYTHONUTF8": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    document, after = done.stdout.rstrip().rsplit("\n", 1)
    assert json.loads(document) == HEAD
    assert after == "after"
    assert set(done.stderr.splitlines()) == {"printed", "by a library in C", "by a child"}
