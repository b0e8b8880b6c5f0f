from pathlib import Path

import pytest

from lowrung.track.base import check_uri, store_uri


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


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////home/me@work/a:b@c/mlflow.db",
        "http://127.0.0.1:5000",
        "https://tracking.example/prefix",
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
