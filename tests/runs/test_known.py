"""What a preflight found is known as long as all that it was found from is what it was."""

import dataclasses
import os
import shutil
import sys
from pathlib import Path

import pytest

from lowrung.config.schema import DataConf, LoraConf, ModelConf, SourceConf, TrainConf
from lowrung.finetune.found import Subject
from lowrung.finetune.models import pretrained
from lowrung.runs import known, surroundings
from lowrung.store import layout, sealed
from tests import training
from tests.sources import pairs, write_rows

DATA = DataConf(name="file", path="rows.jsonl", eval_size=2, max_length=128, metrics=["scores.one"])
LORA = LoraConf(r=4, alpha=8.0)


def subject(folder: Path, **changed):
    made = Subject(ModelConf(path="model"), DATA, folder / "runs", [LORA], [TrainConf(**training.TRAIN)])
    return dataclasses.replace(made, **changed)


def forget_modules_of_others(patch):
    """Takes the metrics of other tests out of this process: their files are gone, and what is gone is not known."""
    for name, module in list(sys.modules.items()):
        if (file := getattr(module, "__file__", None)) and not Path(file).exists():
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, data and a metric, whose store knows a preflight of them; and what was found."""
    folder = tmp_path_factory.mktemp("made") / "here"
    shutil.copytree(pretrained.locate("embedded:tiny"), folder / "model")
    write_rows(folder / "rows.jsonl", [*pairs(6), {"prompt": "?", "completion": "y" * 180}])
    (folder / "helper.py").write_text("ONE = 1\n")
    (folder / "scores.py").write_text("import helper\n\ndef one(predictions, references):\n    return helper.ONE\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)
        forget_modules_of_others(patch)
        found = known.of(subject(folder))
        for name in ("scores", "helper"):
            patch.delitem(sys.modules, name)
    assert found.problems == ()
    shutil.copytree(folder, folder.with_name("as it was"))
    return folder, found


@pytest.fixture
def folder(made, monkeypatch):
    """The folder, to be changed: it is put back afterwards, each file with another inode."""
    folder = made[0]
    monkeypatch.chdir(folder)
    forget_modules_of_others(monkeypatch)
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("as it was"), folder)


def edited(name):
    """A file of the same size, with the time that it had."""

    def edit(folder):
        (file,) = folder.glob(name)
        state = file.stat()
        content = file.read_bytes()
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    return edit


def cut(name):
    def cut(folder):
        (file,) = folder.glob(name)
        file.write_bytes(file.read_bytes()[:-7])

    return cut


def added(name):
    def add(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")

    return add


def gone(name):
    def delete(folder):
        (found,) = folder.glob(name)
        shutil.rmtree(found) if found.is_dir() else found.unlink()

    return delete


def touch(folder):
    for file in (folder / "rows.jsonl", folder / "model" / "model.safetensors"):
        os.utime(file, ns=(0, 0))


def link_hard(folder):
    os.link(folder / "rows.jsonl", folder / "another name")


def link_elsewhere(folder):
    (folder / "rows.jsonl").rename(folder / "rows")
    (folder / "rows.jsonl").symlink_to("rows")


def test_it_is_what_was_found_with_its_notes(made, folder):
    found = known.preflight(subject(folder))
    assert found is not None
    assert found == dataclasses.replace(made[1], settings=found.settings)
    assert any("were cut" in note for note in found.notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        touch,
        link_hard,
        link_elsewhere,
        added("model/pytorch_model.bin"),
        gone("runs/.fingerprints"),
    ],
)
def test_it_is_known_while_all_is_the_same(folder, change):
    change(folder)
    assert known.preflight(subject(folder)) is not None


@pytest.mark.parametrize(
    "change",
    [
        edited("model/model.safetensors"),
        edited("model/chat_template.jinja"),
        added("model/adapter_config.json"),
        added("model/additional_chat_templates/tools.jinja"),
        gone("model/tokenizer_config.json"),
        gone("model"),
        edited("rows.jsonl"),
        gone("rows.jsonl"),
        edited("scores.py"),
        edited("helper.py"),
        added("scores/__init__.py"),
        gone("runs/.tokens"),
        cut("runs/.tokens/*/train/*.arrow"),
        edited("runs/.tokens/*/facts.json"),
        cut("runs/.preflight/*.json"),
        edited("runs/.preflight/*.json"),
        gone("runs/.preflight"),
    ],
)
def test_it_is_not_known_after_a_change(folder, change):
    change(folder)
    assert known.preflight(subject(folder)) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"adapters": [LORA, LoraConf(r=8, alpha=16.0)]},
        {"trains": [TrainConf(**{**training.TRAIN, "batch_size": 2})]},
        {"new_tokens": 8},
        {"data": dataclasses.replace(DATA, date="2026-01-02")},
        {"base": ModelConf(path="model", dtype="bfloat16")},
        {"base": ModelConf(path="./model")},
    ],
)
def test_other_settings_are_not_known(folder, changed):
    assert known.preflight(subject(folder, **changed)) is None


@pytest.mark.parametrize("of", ["_code", "_installed", "machine.gpus"])
def test_other_code_libraries_and_devices_find_anew(folder, monkeypatch, of):
    monkeypatch.setattr(f"{surroundings.__name__}.{of}", lambda: ["another"])
    assert known.preflight(subject(folder)) is None


def test_another_folder_and_another_store_find_anew(folder, monkeypatch):
    assert known.preflight(subject(folder, store=folder / "store")) is None
    shutil.move(folder / "runs", folder / "store")
    assert known.preflight(subject(folder, store=folder / "store")) is None
    monkeypatch.chdir(folder.parent)
    assert known.preflight(subject(folder)) is None


def test_a_store_that_cannot_be_written_is_said_each_time(folder):
    (folder / "file").write_text("")
    found = known.preflight(subject(folder, store=folder / "file" / "runs"))
    assert found is not None
    assert found.problems[0].startswith("store must be where files can be written, but ")


@pytest.mark.slow
def test_adapters_that_were_checked_one_by_one_are_known_together(folder):
    other = LoraConf(r=8, alpha=16.0)
    assert known.of(subject(folder, adapters=[other])).problems == ()
    assert known.preflight(subject(folder, adapters=[LORA, other])) is not None
    assert known.preflight(subject(folder, adapters=[other])) is not None


@pytest.mark.slow
def test_tokens_that_are_damaged_are_written_again(made, folder):
    cut("runs/.tokens/*/train/*.arrow")(folder)
    found = known.of(subject(folder))
    assert (found.problems, found.data_fingerprint) == ((), made[1].data_fingerprint)
    assert known.preflight(subject(folder)) is not None


def test_problems_are_found_each_time(folder):
    asked = subject(folder, data=dataclasses.replace(DATA, eval_size=7))
    assert known.of(asked).problems
    assert known.preflight(asked) is None


@pytest.mark.parametrize(
    ("base", "data", "offline", "is_kept"),
    [
        ({"path": "owner/name"}, {}, None, False),
        ({"path": "owner/name", "revision": "main"}, {}, "0", False),
        ({"path": "owner/name", "revision": "0123abc"}, {}, None, False),
        ({"path": "owner/name", "revision": "main"}, {}, "1", True),
        ({"path": "owner/name", "revision": "0123456789" * 4}, {}, None, True),
        ({"path": "embedded:tiny"}, {}, None, True),
        ({"path": "embedded:tiny", "trust_remote_code": True}, {}, None, False),
        ({"path": "embedded:tiny"}, {"name": "hub", "path": "owner/rows"}, "1", False),
        ({"path": "embedded:tiny"}, {"name": "hub", "path": "model"}, None, True),
        ({"path": "embedded:tiny"}, {"name": "mixture", "sources": [SourceConf("hub", "owner/rows")]}, None, False),
    ],
)
def test_what_may_move_is_not_kept(folder, monkeypatch, base, data, offline, is_kept):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    asked = subject(folder, base=ModelConf(**base), data=dataclasses.replace(DATA, **data))
    assert (known.name(asked) is not None) is is_kept


def test_a_card_that_names_files_elsewhere_is_read_each_time(folder):
    (folder / "set").mkdir()
    data = dataclasses.replace(DATA, name="hub", path="set")
    assert known.name(subject(folder, data=data)) is not None
    (folder / "set" / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: https://a.b/c.csv\n---\n")
    assert known.name(subject(folder, data=data)) is None


def test_a_record_of_another_version_does_not_count(folder, monkeypatch):
    monkeypatch.setattr(sealed, "__version__", "0.0.1")
    assert known.preflight(subject(folder)) is None
    assert layout.preflight_record(folder / "runs", str(known.name(subject(folder)))).is_file()
