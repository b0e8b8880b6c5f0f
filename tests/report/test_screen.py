import io
import os
import sys
from pathlib import Path

import pytest

from lowrung.report import screen


class Output(io.TextIOWrapper):
    """A standard output in an encoding, whose bytes can be read."""

    def __init__(self, encoding, errors="strict"):
        self.sent = io.BytesIO()
        super().__init__(self.sent, encoding=encoding, errors=errors)

    @property
    def bytes(self):
        self.flush()
        return self.sent.getvalue()


@pytest.fixture
def output(monkeypatch):
    """Makes a standard output of an encoding, as a process finds it that was started so."""

    def make(encoding, errors="strict"):
        made = Output(encoding, errors)
        monkeypatch.setattr(sys, "stdout", made)
        screen.prepare()
        return made

    return make


TEXT = "3.919 → 2.785 ± 0.02, max |Δlogit|, ‖ΔW‖, 中 \udcff"


@pytest.mark.parametrize(
    ("encoding", "errors", "shown"),
    [
        ("ascii", "strict", r"3.919 -> 2.785 +/- 0.02, max |dlogit|, ||dW||, \u4e2d \udcff"),
        ("ascii", "surrogateescape", r"3.919 -> 2.785 +/- 0.02, max |dlogit|, ||dW||, \u4e2d \udcff"),
        ("latin-1", "strict", r"3.919 -> 2.785 ± 0.02, max |dlogit|, ||dW||, \u4e2d \udcff"),
        ("cp1252", "strict", r"3.919 -> 2.785 ± 0.02, max |dlogit|, ||dW||, \u4e2d \udcff"),
        ("utf-8", "strict", r"3.919 → 2.785 ± 0.02, max |Δlogit|, ‖ΔW‖, 中 \udcff"),
    ],
)
def test_what_an_encoding_lacks_is_written_in_ascii(output, encoding, errors, shown):
    out = output(encoding, errors)
    print(TEXT, end="")
    assert out.bytes == shown.encode(encoding)
    assert screen.printable(TEXT) == shown


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("0", None), ("", None), ("wide", None), ("-3", None)])
def test_a_log_is_as_wide_as_columns_says_and_else_has_no_width(output, monkeypatch, columns, width):
    output("utf-8")
    monkeypatch.setenv("COLUMNS", columns)
    assert screen.width() == width


def test_a_reader_that_is_gone_is_told_from_one_that_reads(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert not screen.is_reader_gone()
        os.close(reader)
        assert screen.is_reader_gone()
        print("never read")
        with pytest.raises(SystemExit) as ended:
            screen.leave()
        out.flush()
    assert ended.value.code == 141


def test_an_output_without_room_is_dropped_once_it_was_an_error(monkeypatch):
    with Path("/dev/full").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        print("no room")
        with pytest.raises(OSError, match="No space left"):
            out.flush()
        screen.drop_the_rest()
        out.flush()
