"""Many machines, one record: a study in PostgreSQL, and MLflow's server with users and a PostgreSQL of its own."""

import dataclasses
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import requests
from mlflow import MlflowClient

from lowrung.track.base import EXPERIMENT
from tests.servers import tracking_server
from tests.warm import train

pytest.importorskip("flask_wtf", reason="MLflow's server has no users: make test-cluster installs mlflow[auth]")
pgserver: Any = pytest.importorskip("pgserver", reason="there is no PostgreSQL for this Python: pip install pgserver")

pytestmark = pytest.mark.slow

SWEEP = ["-m", "model=tiny", "data=number_words", "lora.r=2,4", "train.max_steps=2", "study=words"]


@dataclasses.dataclass(frozen=True)
class Servers:
    """What runs: the addresses, and the secrets that must stay in the environment."""

    studies: str
    tracking: str
    database_password: str
    passwords: dict[str, str]

    def sweep(self) -> list[str]:
        return [*SWEEP, f"hydra.sweeper.storage='{self.studies}'", f"track.uri={self.tracking}"]

    def variables(self, user: str, folder: Path) -> dict[str, str]:
        tracking = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": self.passwords[user]}
        return {**tracking, "PGPASSWORD": self.database_password, "HOME": str(folder)}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    password = secrets.token_hex(8)
    with pgserver.get_server(folder / "postgresql") as server:
        server.psql(f"CREATE ROLE lowrung LOGIN PASSWORD '{password}'")
        for name in ("studies", "mlflow", "users"):
            server.psql(f"CREATE DATABASE {name} OWNER lowrung")
        rules = "local all postgres trust\nlocal all all scram-sha-256\n"
        (folder / "postgresql" / "pg_hba.conf").write_text(rules)
        server.psql("SELECT pg_reload_conf()")

        def address(name: str) -> str:
            return f"postgresql://lowrung@/{name}?host={folder / 'postgresql'}"

        passwords = {name: secrets.token_hex(16) for name in ("admin", "ann", "bob")}
        settings = folder / "auth.ini"
        lines = ["[mlflow]", "default_permission = NO_PERMISSIONS", f"database_uri = {address('users')}"]
        lines += [
            "admin_username = admin",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        ]
        settings.write_text("\n".join([*lines, "auth_cache_ttl_seconds = 60"]))
        secret = {"MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16), "PGPASSWORD": password}
        secret["MLFLOW_AUTH_ADMIN_PASSWORD"] = passwords["admin"]
        with tracking_server(
            folder,
            None,
            "--app-name",
            "basic-auth",
            database=address("mlflow"),
            MLFLOW_AUTH_CONFIG_PATH=str(settings),
            **secret,
        ) as (_, tracking):
            for name in ("ann", "bob"):
                requests.post(
                    f"{tracking}/api/2.0/mlflow/users/create",
                    json={"username": name, "password": passwords[name]},
                    auth=("admin", passwords["admin"]),
                    timeout=60,
                ).raise_for_status()
            yield Servers(address("studies"), tracking, password, passwords)


@pytest.fixture(scope="module")
def swept(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ann has swept, her passwords in the environment."""
    folder = tmp_path_factory.mktemp("ann")
    done = train(folder, *servers.sweep(), **servers.variables("ann", folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: not tracked" not in done.stdout + done.stderr
    return folder


def test_both_databases_hold_the_sweep(servers: Servers, swept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in servers.variables("ann", swept).items():
        monkeypatch.setenv(name, value)
    study = optuna.load_study(study_name="words", storage=servers.studies)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]
    client = MlflowClient(servers.tracking)
    experiment = client.get_experiment_by_name("lowrung")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.params["lora.r"] for run in runs if "mlflow.parentRunId" in run.data.tags) == ["2", "4"]
    for run in runs:
        if "mlflow.parentRunId" in run.data.tags:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, "eval/loss")]
            assert steps == sorted(set(steps))
            assert len(steps) >= 2
            assert "adapter" in [file.path for file in client.list_artifacts(run.info.run_id)]


def test_no_file_holds_a_password(servers: Servers, swept: Path) -> None:
    hidden = [servers.database_password.encode(), *(password.encode() for password in servers.passwords.values())]
    files = [file for file in swept.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if any(secret in file.read_bytes() for secret in hidden)]


def test_passwords_in_files_of_the_home_folder(servers: Servers, swept: Path, tmp_path: Path) -> None:
    (tmp_path / ".pgpass").write_text(f"*:*:*:lowrung:{servers.database_password}\n")
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login bob password {servers.passwords['bob']}\n")
    for file in (".pgpass", ".netrc"):
        (tmp_path / file).chmod(0o600)
    done = train(tmp_path, *servers.sweep(), "study=others", HOME=str(tmp_path), **{EXPERIMENT: "bob's"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning: not tracked" not in done.stdout + done.stderr
    assert "experiment bob's" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"MLFLOW_TRACKING_PASSWORD": "wrong"}, "asks for a user, and takes none that it was given. Set MLFLOW_"),
        ({"MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}, "asks for a user"),
        ({"PGPASSWORD": "wrong"}, "password authentication failed for user"),
    ],
)
def test_a_password_that_is_refused(servers: Servers, tmp_path: Path, changed: dict[str, str], message: str) -> None:
    done = train(tmp_path, *servers.sweep(), **{**servers.variables("ann", tmp_path), **changed})
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("runs/*/outcome.json"))


def test_an_experiment_of_someone_else(servers: Servers, swept: Path, tmp_path: Path) -> None:
    done = train(tmp_path, *servers.sweep(), "study=third", **servers.variables("bob", tmp_path))
    assert done.returncode == 2
    assert "does not let this user do that" in done.stderr
