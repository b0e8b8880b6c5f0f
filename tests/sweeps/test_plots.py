"""The plots that a sweep's run in the tracker shows."""

import json
import shutil
from pathlib import Path

import pytest

from lowrung.report import plots as report
from lowrung.store.layout import StudyFolder
from lowrung.sweeps import plots
from tests.stage import Stage
from tests.studies.written import Written

DRAWN = plots.drawn
"""The real one; `here` has another."""


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return Written(tmp_path).write()


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for matplotlib; gives the names of the studies that were drawn."""
    made: list[str] = []

    def png(study, folder):
        made.append(study.name)
        folder.mkdir(exist_ok=True)
        (folder / "differences.png").write_bytes(b"")
        return [folder / "differences.png"]

    monkeypatch.setattr(report, "png", png)
    return made


def rewrite(folder: StudyFolder, **changes: object) -> None:
    best, *others = json.loads(folder.leaderboard.read_text())
    folder.leaderboard.write_text(json.dumps([{**best, **changes}, *others]))


def test_the_same_leaderboard_is_drawn_once_and_another_anew(folder, drawings):
    for changes, count in (({}, 1), ({}, 1), ({"cause": "another"}, 2)):
        rewrite(folder, **changes)
        assert plots.drawn(folder) == [folder.plots / "differences.png"]
        assert len(drawings) == count


def test_what_was_drawn_in_part_is_drawn_again_and_leaves_nothing_old(folder, drawings):
    (old,) = plots.drawn(folder)
    mark = folder.plots / "digest"
    for damage in (mark.unlink, lambda: mark.write_text("half"), lambda: shutil.rmtree(folder.plots)):
        damage()
        folder.plots.mkdir(exist_ok=True)
        (folder.plots / "slices.png").touch()
        assert plots.drawn(folder) == [old]
    assert len(drawings) == 4


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError(), ValueError("two\nlines")])
def test_plots_that_fail_are_a_line_and_no_more(folder, monkeypatch, capsys, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(report, "png", fails)
    assert plots.drawn(folder) == []
    assert capsys.readouterr().out.startswith("warning: the sweep's plots are not drawn: ")


@pytest.mark.slow
def test_the_sweeps_run_has_them(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "drawn", DRAWN)
    here.sweep("lora.r=4,8")
    images = {name: image for name, image in here.tracker.runs["run0"].artifacts.items() if name.endswith(".png")}
    assert {"differences.png", "slices.png"} <= images.keys()
    assert all(image.startswith(b"\x89PNG") for image in images.values())
    monkeypatch.setattr(report, "png", None)  # the same command draws nothing
    here.tracker.runs["run0"].artifacts.clear()
    here.sweep("lora.r=4,8")
    assert images.items() <= here.tracker.runs["run0"].artifacts.items()
