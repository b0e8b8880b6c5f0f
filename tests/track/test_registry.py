"""The registry, with a model that is a file and a loader that reads it: no weights are needed to see what it keeps."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from lowrung.errors import LowrungError, UsageError
from lowrung.track import registry
from lowrung.track.base import TrackError
from lowrung.track.registry import Entry, Registry, Said
from tests import warm
from tests.servers import free_port

LOADER = """
import pathlib

class Echo:
    def __init__(self, folder, settings):
        self.text = (pathlib.Path(folder) / "text").read_text() + settings["end"]

    def predict(self, model_input, params):
        return [f"{self.text} {prompt} {params['new_tokens']}" for prompt in model_input.iloc[:, 0]]

def _load_pyfunc(folder, settings):
    return Echo(folder, settings)
"""
IDENTITY = {"lowrung.signature": "ab12", "lowrung.form": "adapter"}


@pytest.fixture
def entry(run, tmp_path):
    return _entry(run, tmp_path)


def _entry(run, tmp_path):
    model = tmp_path / "working" / "echo"
    model.mkdir(parents=True)
    (model / "text").write_text("said")
    (tmp_path / "loader.py").write_text(LOADER)
    return Entry(
        name="echo",
        run=run,
        folder=model,
        loader=tmp_path / "loader.py",
        settings={"end": "!"},
        example="a",
        packages=(),
        identity=IDENTITY,
        tags={"lowrung.gate": "passed", "long": "x" * 6000},
        description="# Echo\n" + "y" * 6000,
    )


def fail(model):
    raise LowrungError("it is not what it was")


def numbers(uri):
    return sorted(int(version.version) for version in MlflowClient(uri).search_model_versions("name = 'echo'"))


def pointed_at(uri):
    return str(MlflowClient(uri).get_model_version_by_alias("echo", "champion").version)


@pytest.mark.slow
def test_a_version_says_where_it_is_from_and_is_known_again(uri, entry):
    version, _ = Registry(uri).register(entry, lambda model: None)
    found = MlflowClient(uri).get_model_version("echo", version)
    assert found.run_id == entry.run
    assert found.tags == {**IDENTITY, "lowrung.gate": "passed", "long": "x" * 5000, registry.VERIFIED_TAG: "true"}
    assert found.description == entry.description[:5000]
    assert Registry(uri).known("echo", IDENTITY) == version
    assert Registry(uri).known("echo", {**IDENTITY, "lowrung.form": "merged"}) is None
    assert Registry(uri).known("other", IDENTITY) is None
    assert [path.name for path in entry.folder.parent.iterdir()] == ["echo"]


@pytest.mark.slow
def test_it_is_checked_before_it_counts_and_asked_as_its_users_load_it(uri, entry):
    asked = []

    def check(model):
        assert Registry(uri).known("echo", IDENTITY) is None
        asked.append(Registry(uri).ask(model, ["a", "b"], new_tokens=7))

    Registry(uri).register(entry, check)
    assert asked == [Said(["said! a 7", "said! b 7"], logits=[])]


@pytest.mark.slow
def test_nothing_that_is_pickled_is_kept(uri, entry, tmp_path):
    version, _ = Registry(uri).register(entry, lambda model: None)
    source = MlflowClient(uri).get_model_version("echo", version).source
    assert source is not None
    folder = Path(unquote(urlsplit(source).path))
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"text", "MLmodel", "lowrung_served.py", "requirements.txt"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".bin", ".pt"))]


def test_a_check_that_fails_leaves_nothing(uri, entry):
    with pytest.raises(LowrungError, match="not what it was"):
        Registry(uri).register(entry, fail)
    assert MlflowClient(uri).search_registered_models() == []


def test_a_check_that_fails_leaves_the_versions_and_aliases_that_there_were(uri, entry):
    opened = Registry(uri)
    first, _ = opened.register(entry, lambda model: None)
    assert opened.point("echo", "champion", first) is None
    with pytest.raises(LowrungError):
        opened.register(dataclasses.replace(entry, identity={"lowrung.signature": "cd34"}), fail)
    assert numbers(uri) == [int(first)]
    assert pointed_at(uri) == first


@pytest.mark.slow
def test_what_a_killed_promotion_left_is_deleted(uri, entry):
    client = MlflowClient(uri)
    client.create_registered_model("echo")
    client.create_model_version("echo", "file:///gone", tags=IDENTITY)
    client.create_model_version("echo", "file:///another", tags={**IDENTITY, "lowrung.form": "merged"})
    version, _ = Registry(uri).register(entry, lambda model: None)
    assert version == "3"
    assert numbers(uri) == [2, 3]


@pytest.mark.slow
def test_an_alias_moves_and_says_from_where(uri, entry):
    opened = Registry(uri)
    first, _ = opened.register(entry, lambda model: None)
    second, _ = opened.register(dataclasses.replace(entry, identity={"lowrung.signature": "cd34"}), lambda model: None)
    assert [opened.point("echo", "champion", version) for version in (first, second, second)] == [None, first, second]
    assert pointed_at(uri) == second


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_said_in_a_line(uri, entry, monkeypatch):
    monkeypatch.setattr(registry, "subprocess", SimpleNamespace(run=warm.run_in_place_of_subprocess))
    entry.loader.write_text("def _load_pyfunc(folder, settings):\n    raise ValueError('no such base')\n")
    opened = Registry(uri)
    with pytest.raises(TrackError, match=r"cannot load models:/echo/1 in a fresh process: ValueError: no such base$"):
        opened.register(entry, lambda model: print(opened.ask(model, ["a"], new_tokens=1)))
    with pytest.raises(MlflowException):
        MlflowClient(uri).get_registered_model("echo")


class TestRefused:
    @pytest.mark.parametrize("name", ["", "a/b", "a:b", "a b", "..", "-a", "x" * 257, "it's"])
    def test_names_that_mlflow_or_its_filters_do_not_take(self, name):
        (problem,) = registry.problems(name, "champion")
        assert problem.startswith("--name must begin with a letter or digit")

    @pytest.mark.parametrize("alias", ["", "a.b", "a b", "x" * 256, "latest", "Latest", "v1", "V12"])
    def test_aliases_that_mlflow_does_not_take(self, alias):
        (problem,) = registry.problems("echo", alias)
        assert problem.startswith("--alias must ")

    def test_both_at_once(self):
        assert len(registry.problems("a/b", "v1")) == 2

    @pytest.mark.parametrize(("name", "alias"), [("tiny-number_words", "champion"), ("Qwen2.5", "v1-rc"), ("a", "x")])
    def test_sound_ones_pass_here_and_in_mlflow(self, uri, name, alias):
        assert registry.problems(name, alias) == []
        client = MlflowClient(uri)
        client.create_registered_model(name)
        client.set_registered_model_alias(name, alias, client.create_model_version(name, "file:///x").version)

    def test_a_server_that_is_away(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(TrackError, match="MLflow: "):
            Registry(f"http://127.0.0.1:{free_port()}")

    def test_a_folder(self):
        with pytest.raises(UsageError, match=r"track\.uri"):
            Registry("mlruns")
