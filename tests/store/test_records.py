"""Records of another version of lowrung: what one version wrote and this one cannot use is one clear error."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest

import lowrung
from lowrung.errors import StoreError
from lowrung.store import mailbox, records
from lowrung.store.layout import RunFolder, StudyFolder, point_to


@dataclasses.dataclass
class Known:
    """A record as this version knows it."""

    loss: float
    note: str = ""
    steps: list[int] = dataclasses.field(default_factory=list)


def write(path: Path, record: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def old_run(tmp_path: Path) -> RunFolder:
    """A run that lowrung 0.0.9 left."""
    run = RunFolder(tmp_path / "runs" / "ab12")
    write(run.environment, {"lowrung": "0.0.9", "threads": 2})
    run.config.write_text("seed: 0")
    return run


def test_a_record_is_read_like_a_dict_and_survives_pickling(tmp_path):
    read = records.read(write(tmp_path / "file.json", {"a": {"b": 1}, "c": [1, {"d": 2}]}))
    assert read == {"a": {"b": 1}, "c": [1, {"d": 2}]}
    assert read.get("e") is None
    assert pickle.loads(pickle.dumps(read)) == read


@pytest.mark.parametrize("content", [b"", b"{", b'{"status": "comp', b"\xff\xfe"])
def test_a_broken_file_is_named_with_a_remedy(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"file\.json must be JSON, but it is not .* Delete .*file\.json"):
        records.read(path)


@pytest.mark.parametrize("read", [records.read, records.read_list])
@pytest.mark.parametrize("content", ["null", "3", '["a"]'])
def test_json_of_another_shape_is_an_error(tmp_path, read, content):
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(StoreError, match=r"must hold a .* but holds something else"):
        read(tmp_path / "file.json")


class TestFields:
    def test_one_that_is_missing_is_an_error_that_names_the_version_and_the_remedy(self, old_run):
        with pytest.raises(StoreError) as caught:
            records.read(old_run.environment)["tokens"]
        assert str(caught.value) == (
            f"{old_run.environment} must have the field 'tokens', but has only lowrung, threads."
            f" lowrung 0.0.9 wrote it, and this is {lowrung.__version__}."
            f" Delete {old_run.path}, and the command that wrote it starts that part anew."
        )

    def test_one_that_is_missing_further_inside_is_an_error_too(self, tmp_path):
        (row,) = records.read_list(write(tmp_path / "board.json", [{"runs": [{"seed": 0}]}]))
        with pytest.raises(StoreError, match="must have the field 'status', but has only seed"):
            row["runs"][0]["status"]

    def test_a_dataclass_takes_its_defaults(self, tmp_path):
        assert records.read(write(tmp_path / "file.json", {"loss": 0.5})).into(Known) == Known(0.5)

    @pytest.mark.parametrize(
        ("record", "problem"),
        [
            ({"note": "x"}, "must have the field 'loss', but has only note"),
            ({}, "must have the field 'loss', but has only none"),
            ({"loss": 0.5, "step": 3}, "must have the fields loss, note, steps alone, but has 'step'"),
        ],
    )
    def test_a_dataclass_needs_its_fields_and_no_others(self, tmp_path, record, problem):
        with pytest.raises(StoreError, match=problem):
            records.read(write(tmp_path / "file.json", record)).into(Known)


class TestWriter:
    def test_a_studys_records_are_of_its_runs_version(self, old_run, tmp_path):
        study = StudyFolder(tmp_path / "multirun" / "s")
        point_to(study.job(3).run, old_run.path)
        for record in (study.leaderboard, study.job(3).path / "any.json"):
            with pytest.raises(StoreError, match=rf"lowrung 0\.0\.9 wrote it.* Delete {record}, and"):
                records.read(write(record, {}))["trial"]

    @pytest.mark.parametrize("environment", [{"threads": 2}, []])
    def test_it_may_be_unknown(self, old_run, environment):
        write(old_run.environment, environment)
        with pytest.raises(StoreError, match="Another version of lowrung may have written it; this is "):
            records.read(write(old_run.outcome, {}))["status"]


def test_a_report_of_another_version_is_an_error_for_whoever_reads_it(old_run):
    mailbox.post(old_run.path, {"step": 1})
    (report,) = mailbox.Reader(old_run.path).read()
    with pytest.raises(StoreError, match=r"reports\.jsonl must have the field 'metrics', but has only step"):
        report["metrics"]
