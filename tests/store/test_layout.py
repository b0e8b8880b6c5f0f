import dataclasses
import os
from pathlib import Path

from lowrung.store import layout
from lowrung.store.layout import JobFolder, RunFolder, StudyFolder


def properties(folder: RunFolder | JobFolder | StudyFolder) -> dict[str, Path]:
    names = [name for name, value in vars(type(folder)).items() if isinstance(value, property)]
    return {name: getattr(folder, name) for name in names}


def test_the_checkout_is_the_root():
    assert (layout.ROOT / "src" / "train.py").is_file()
    assert (layout.ROOT / "conf" / "config.yaml").is_file()


def test_every_name_in_a_folder_is_another_file(tmp_path):
    for kind in (RunFolder, JobFolder, StudyFolder):
        paths = list(properties(kind(tmp_path)).values())
        assert paths
        assert len(set(paths)) == len(paths)
        assert {path.parent for path in paths} == {tmp_path}


def test_a_study_holds_a_folder_for_each_trial(tmp_path):
    study = StudyFolder(tmp_path)
    assert study.job(12) == JobFolder(tmp_path / "12")
    assert study.job(1).run not in properties(study).values()


def test_a_run_lies_below_its_signature(tmp_path):
    assert layout.run_folder(tmp_path, "ab12") == RunFolder(tmp_path / "ab12")


def test_folders_are_values(tmp_path):
    assert dataclasses.replace(RunFolder(tmp_path)) == RunFolder(tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("LOWRUNG_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert layout.cache_folder() == tmp_path / "xdg" / "lowrung"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert layout.cache_folder() == tmp_path / "home" / ".cache" / "lowrung"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRUNG_CACHE", "mine")
    assert layout.cache_folder() == tmp_path / "mine"


class TestPointTo:
    def test_the_link_survives_a_move_of_both(self, tmp_path):
        target = tmp_path / "a b" / "runs" / "ab12"
        target.mkdir(parents=True)
        (target / "outcome.json").write_text("{}")
        link = tmp_path / "a b" / "multirun" / "study" / "0" / "run"
        layout.point_to(link, target)
        assert link.resolve() == target
        (tmp_path / "a b").rename(tmp_path / "c")
        assert (tmp_path / "c" / "multirun" / "study" / "0" / "run" / "outcome.json").read_text() == "{}"

    def test_an_older_link_is_replaced(self, tmp_path):
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            layout.point_to(tmp_path / "run", tmp_path / name)
        assert (tmp_path / "run").resolve() == tmp_path / "second"

    def test_the_way_to_both_may_lead_over_links(self, tmp_path):
        (tmp_path / "private" / "deep").mkdir(parents=True)
        (tmp_path / "runs" / "ab12").mkdir(parents=True)
        (tmp_path / "short").symlink_to("private/deep")
        layout.point_to(tmp_path / "short" / "0" / "run", tmp_path / "runs" / "ab12")
        assert (tmp_path / "short" / "0" / "run").resolve(strict=True) == tmp_path / "runs" / "ab12"

    def test_the_target_may_come_later(self, tmp_path):
        layout.point_to(tmp_path / "0" / "run", tmp_path / "runs" / "ab12")
        assert os.readlink(tmp_path / "0" / "run") == "../runs/ab12"  # noqa: PTH115  (the text is what matters)
