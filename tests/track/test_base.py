from pathlib import Path

import pytest

from lowrung.track.base import check_uri, chosen_experiment, store_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, "sqlite:////home/me/a b/mlflow.db"),
        ("sqlite:///runs/ml.db", "sqlite:////home/me/a b/runs/ml.db"),
        ("sqlite:////var/ml.db", "sqlite:////var/ml.db"),
        ("http://tracking:5000", "http://tracking:5000"),
    ],
)
def test_store_uri_is_absolute(uri, expected):
    assert store_uri(uri, Path("/home/me/a b")) == expected


class TestEnvironment:
    """MLflow's own variables count where the settings are null."""

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("http://tracking:5000", "http://tracking:5000"),
            ("sqlite:///ml.db", "sqlite:////home/me/ml.db"),
            ("", "sqlite:////home/me/mlflow.db"),
        ],
    )
    def test_the_address(self, monkeypatch, value, expected):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
        assert store_uri(None, Path("/home/me")) == expected
        assert store_uri("http://other:1", Path("/home/me")) == "http://other:1"

    @pytest.mark.parametrize(("value", "expected"), [("mine", "mine"), ("", "lowrung"), (None, "lowrung")])
    def test_the_experiment(self, monkeypatch, value, expected):
        if value is not None:
            monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", value)
        assert chosen_experiment(None) == expected
        assert chosen_experiment("other") == "other"

    @pytest.mark.parametrize(
        "value",
        [
            "https://me:hunter2@tracking.example",
            "postgresql://me:hunter2@database/mlflow",
            "https://tracking.example/?token=hunter2",
            "https://hunter2@tracking.example",
            "./mlruns",
            "file:///home/me/mlruns",
            "databricks",
        ],
    )
    def test_what_cannot_be_used_is_named_and_not_repeated(self, monkeypatch, value):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", value)
        (problem,) = check_uri(store_uri(None, Path("/home/me")))
        assert problem.startswith("MLFLOW_TRACKING_URI must ")
        assert "hunter2" not in problem


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////home/me@work/a:b@c/mlflow.db",
        "http://127.0.0.1:5000",
        "https://tracking.example/prefix",
        "https://tracking.example/of@me",
        "postgresql+psycopg2://me@database:5432/mlflow",
    ],
)
def test_sound_addresses_pass(uri):
    assert check_uri(uri) == []


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://me:hunter2@database/mlflow",
        "https://me:hunter2@tracking.example",
        "mysql+pymysql://me:hunter2/#@database/mlflow",
        "postgresql://database/mlflow?user=me&password=hunter2",
    ],
)
def test_a_password_is_refused_and_not_repeated(uri):
    (problem,) = check_uri(uri)
    assert "track.uri" in problem
    assert "MLFLOW_TRACKING_PASSWORD" in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize("uri", ["mlruns", "/home/me/mlruns", "file:///home/me/mlruns", "sqlite://", ""])
def test_a_folder_is_refused(uri):
    (problem,) = check_uri(uri)
    assert "track.uri" in problem
    assert "sqlite:///" in problem


@pytest.mark.parametrize("uri", ["nonsense://x", "postgres://database/mlflow", "s3://bucket/runs", "ws://tracking"])
def test_what_mlflow_has_no_store_for_is_refused(uri):
    (problem,) = check_uri(uri)
    assert problem.startswith("track.uri must be a database or a server that MLflow knows (sqlite://, postgresql://")
    assert f"begins with {uri.partition('//')[0]}//. " in problem


@pytest.mark.parametrize(
    "uri", ["http:///x", "http://host:port", "http://host:0", "https://[::1", "sqlite://x", "sqlite:///a?b/c.db"]
)
def test_an_address_that_leads_nowhere_is_refused(uri):
    (problem,) = check_uri(uri)
    assert problem.startswith("track.uri must ")
    assert uri in problem
