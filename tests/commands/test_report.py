"""`lowrung report`: what it prints and writes of a study, whatever state that is in."""

import csv
import html
import os
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest

from lowrung.__main__ import main, parser
from lowrung.commands import candidates, report
from lowrung.report import plots
from lowrung.search import lease
from lowrung.store.layout import StudyFolder
from lowrung.store.outcome import Status
from tests.studies.written import Written


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own. Without plots, whose libraries take 2 s: tests/report/page and /plots have them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "png", lambda study, folder: [])
    monkeypatch.setattr(plots, "draw", lambda study: plots.Drawn([], []))
    return tmp_path


@pytest.fixture
def words(here: Path) -> Written:
    made = Written(here, losses={0: 3.0, 1: 2.5})
    made.write()
    return made


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int | None = None) -> str:
    if code is None:
        main(["report", *arguments])
    else:
        with pytest.raises(SystemExit) as ended:
            main(["report", *arguments])
        assert ended.value.code == code
    out, err = capsys.readouterr()
    return out + err


def test_it_prints_the_table_and_the_verdict_and_says_where_the_files_are(words, capsys):
    text = printed(capsys)
    assert "against the best" in text
    assert "verdict: lora.r=8" in text
    files = [words.folder.report / name for name in ("report.html", "leaderboard.csv", "runs.csv")]
    assert text.split()[-3:] == [str(file) for file in files]
    assert all(file.is_file() for file in files)
    assert files[0].stat().st_size < 5e6
    assert 'http-equiv="refresh"' not in files[0].read_text()


def test_the_csv_has_each_trial_with_its_interval_and_each_report(words, capsys):
    printed(capsys, "words", "--out", "elsewhere")
    with Path("elsewhere/leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["trial"], row["status"]) for row in rows[:2]] == [
        ("1", "1", "complete"),
        ("2", "0", "complete"),
    ]
    assert float(rows[1]["low"]) < float(rows[1]["difference"]) < float(rows[1]["high"])
    assert [row["difference"] for row in rows] == ["0.0", rows[1]["difference"], "", ""]
    with Path("elsewhere/runs.csv").open() as file:
        points = [row for row in csv.DictReader(file) if row["trial"] == "1"]
    assert [int(row["step"]) for row in points] == list(range(21))
    assert (points[10]["eval/loss"] != "", points[9]["eval/loss"]) == (True, "")


@pytest.mark.parametrize(
    "name", ["[red]", """it's "quoted" $HOME""", " a  b ", "-dash", "größe 中", ":x: <b>&amp;", "%d"]
)
def test_any_name_is_a_text_and_its_line_to_copy_finds_it(here, capsys, name):
    folder = Written(here, [Status.COMPLETE] * 2, name=name).write()
    text = printed(capsys, "--", name)
    assert f"\n{folder.report / 'report.html'}\n" in text
    page = (folder.report / "report.html").read_text()
    assert f"<h1>{html.escape(name).replace('&#x27;', '&#39;').replace('&quot;', '&#34;')}</h1>" in page
    assert sorted(compared(folder)) == [f"{name}/0", f"{name}/1"]


def compared(folder: StudyFolder) -> list[str]:
    """The runs that the page's line compares."""
    (line,) = re.findall(r"<pre>(.*)</pre>", (folder.report / "report.html").read_text())
    return [str(run) for run in parser().parse_args(shlex.split(html.unescape(line))[1:]).runs]


def test_the_line_to_copy_leads_to_the_runs_of_a_study_that_was_renamed_or_has_its_jobs_elsewhere(words, capsys):
    renamed = StudyFolder(words.folder.path.rename(words.folder.path.with_name("re named")))
    printed(capsys, "re named")
    assert compared(renamed) == ["re named/1", "re named/0"]
    (renamed.path / "at").mkdir()
    for number in range(4):
        renamed.job(number).path.rename(renamed.path / "at" / f"rank_{number}")
    printed(capsys, "re named")
    assert compared(renamed) == [str(words.run(1).path), str(words.run(0).path)]
    named = [candidate.name for candidate in candidates.candidates(renamed)]
    assert named == [f"re named/at/rank_{number}" for number in (1, 0, 2, 3)]


def test_a_name_that_is_taken_for_an_option_is_shown_behind_dashes(here, capsys):
    Written(here, [Status.COMPLETE], name="-dash").write()
    with pytest.raises(SystemExit):
        main(["clean", "-dash", "--dry-run"])
    said = capsys.readouterr().err
    assert "A name that begins with - goes behind --, after all options: " in said
    main(shlex.split(said)[-4:])
    assert "a dry run" in capsys.readouterr().out


def test_a_study_that_does_not_exist(words, capsys):
    for name in ("word", "", "multirun", "../words", "4"):
        text = printed(capsys, name, code=2)
        assert "STUDY must be a study in" in text
    assert "Did you mean words?" in printed(capsys, "word", code=2)


def test_no_study_at_all(here, capsys):
    assert "there is no study in" in printed(capsys, code=2)


@pytest.mark.parametrize("name", ["words", "multirun/words", "./multirun/words/"])
def test_a_study_by_its_name_or_its_folder(words, capsys, name):
    assert "verdict:" in printed(capsys, name)


def test_the_latest_study_unless_one_is_named(words, capsys):
    later = Written(words.root, [Status.COMPLETE], name="later")
    os.utime(later.write().config, (2e9, 2e9))
    assert "trial 0 is the only trial" in printed(capsys)


def test_an_empty_study(here, capsys):
    folder = Written(here, [], has_ended=False).write()
    assert "verdict: no trial has ended\n\nstudy words has no trial yet" in printed(capsys)
    assert "This study has no trial yet." in (folder.report / "report.html").read_text()


def test_no_trial_is_complete(here, capsys):
    folder = Written(here, [Status.FAILED, Status.OOM, Status.DIVERGED, Status.CANCELLED]).write()
    assert "no trial was trained to its end (1 failed, 1 oom, 1 diverged, 1 cancelled)" in printed(capsys)
    assert "it is oom" in (folder.report / "report.html").read_text()


def test_a_study_that_has_not_ended(here, capsys):
    Written(here, [Status.COMPLETE, None], has_ended=False).write()
    assert "study words is interrupted; not ended: 1" in printed(capsys)


def test_what_is_gone_is_said_and_the_rest_shown(words, capsys):
    shutil.rmtree(words.root / "runs")
    text = printed(capsys)
    assert "note: a run's folder is gone" in text
    assert "verdict: lora.r=8" in text


def test_a_folder_that_cannot_be_written(words, capsys):
    Path("file").write_text("")
    text = printed(capsys, "--out", "file", code=2)
    assert "verdict: lora.r=8" in text  # what can be shown is
    assert "--out must be where files can be written" in text


def test_watching_writes_the_page_anew_until_the_study_ends(words, capsys, monkeypatch):
    monkeypatch.setattr(lease, "is_alive", lambda text: not words.folder.leaderboard.is_file())
    board, verdict = words.folder.leaderboard.read_text(), words.folder.verdict.read_text()
    words.folder.leaderboard.unlink()
    states = []
    kept = report.write

    def noted(study, out, *, reloads=False):
        states.append((study.state, reloads))
        return kept(study, out, reloads=reloads)

    def ends(_):
        words.folder.verdict.write_text(verdict)
        words.folder.leaderboard.write_text(board)

    looks = iter(range(3))

    def goes_on(_):
        if next(looks, None) is None:
            ends(_)
        else:
            words.run(0).reports.touch()

    monkeypatch.setattr(report, "write", noted)
    monkeypatch.setattr(time, "sleep", goes_on)
    text = printed(capsys, "--watch")
    assert states == [*[("running", True)] * 4, ("complete", False)]
    assert text.count("4 of 4 trials have ended") == 1
    assert 'http-equiv="refresh"' not in (words.folder.report / "report.html").read_text()


def test_watching_ends_where_the_coordinator_was_killed(words, capsys, monkeypatch):
    words.folder.leaderboard.unlink()
    looks: list[float] = []
    monkeypatch.setattr(time, "sleep", looks.append)
    assert "study words is interrupted" in printed(capsys, "--watch")
    assert len(looks) == report.SETTLED


def test_watching_ends_at_ctrl_c(words, capsys, monkeypatch):
    words.folder.leaderboard.unlink()

    def interrupts(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupts)
    assert "no longer watching" in printed(capsys, "--watch")
