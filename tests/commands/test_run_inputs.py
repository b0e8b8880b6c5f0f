"""A base with Python code of its own, which runs only where a command is told so."""

import pytest

from lowrung.__main__ import main
from tests import model_with_code
from tests.commands.conftest import change_config

COMMANDS = {
    "inspect": ["ab12"],
    "generate": ["ab12", "--prompt", "Write 47 in words.", "--new-tokens", "2"],
    "merge": ["ab12", "--to", "merged"],
    "compare": ["ab12", "cd34", "--prompt", "Write 47 in words.", "--new-tokens", "2"],
    "combine": ["ab12", "cd34", "--to", "both"],
}


@pytest.fixture
def ran(here, monkeypatch):
    """What the code leaves when it runs; that a run trusted it is nothing to the commands."""
    folder = model_with_code.make(here, monkeypatch)
    for run in ("ab12", "cd34"):
        change_config(here, run, "model", path=str(folder), trust_remote_code=True)
    return here / "ran"


@pytest.mark.parametrize("command", COMMANDS)
def test_foreign_code_does_not_run_unasked(ran, refused, command):
    assert "brings Python code of its own" in refused(command, *COMMANDS[command])
    assert not ran.exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.slow
def test_foreign_code_runs_where_it_is_trusted(ran, capsys, command):
    main([command, *COMMANDS[command], "--trust-remote-code"])
    assert ran.exists()
    assert capsys.readouterr().out
