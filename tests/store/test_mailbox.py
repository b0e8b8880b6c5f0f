from pathlib import Path

import pytest

from lowrung.store import mailbox
from lowrung.store.layout import RunFolder


def test_a_report_is_read_once(tmp_path: Path) -> None:
    reader = mailbox.Reader(tmp_path)
    assert reader.read() == []
    mailbox.post(tmp_path, {"step": 1, "eval/loss": 2.5})
    mailbox.post(tmp_path, {"step": 2, "note": "Zürich\nGenève"})
    assert reader.read() == [{"step": 1, "eval/loss": 2.5}, {"step": 2, "note": "Zürich\nGenève"}]
    assert reader.read() == []
    mailbox.post(tmp_path, {"step": 3})
    assert reader.read() == [{"step": 3}]


def test_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    reader = mailbox.Reader(tmp_path)
    whole = '{"step": 1}\n{"note": "Zürich"}\n'.encode()
    reports = RunFolder(tmp_path).reports
    seen = []
    for end in range(1, len(whole) + 1):
        reports.write_bytes(whole[:end])
        seen += reader.read()
    assert seen == [{"step": 1}, {"note": "Zürich"}]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        mailbox.post(tmp_path, {"eval/loss": float("nan")})
    assert mailbox.Reader(tmp_path).read() == []


def test_stop_is_asked_and_cleared(tmp_path: Path) -> None:
    assert mailbox.stop_reason(tmp_path) is None
    mailbox.ask_to_stop(tmp_path)
    assert mailbox.stop_reason(tmp_path) == ""
    mailbox.ask_to_stop(tmp_path, "pruned")
    assert mailbox.stop_reason(tmp_path) == "pruned"
    mailbox.post(tmp_path, {"step": 1})
    mailbox.clear(tmp_path)
    mailbox.clear(tmp_path)
    assert mailbox.stop_reason(tmp_path) is None
    assert mailbox.Reader(tmp_path).read() == []


def test_warnings_are_read_but_for_what_a_full_disk_cut(tmp_path: Path) -> None:
    assert mailbox.warnings(tmp_path) == []
    one, two = ({"library": "torch", "text": text} for text in ("Zürich\nGenève", "another"))
    mailbox.warn(tmp_path, one)
    with RunFolder(tmp_path).warnings.open("a") as file:
        file.write('{"library": "pe\n')
    mailbox.warn(tmp_path, two)
    assert mailbox.warnings(tmp_path) == [one, two]
    mailbox.clear(tmp_path)
    assert mailbox.warnings(tmp_path) == []
    mailbox.warn(tmp_path / "no such folder", one)
