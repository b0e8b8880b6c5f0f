"""The commands that users type, run as they would be."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from lowrung.store.layout import ROOT

PATIENCE = 900.0
"""Seconds for what another process does in a moment, or in half a minute, on an idle machine: a busy one, or one that
stops for a while, is no failure. Less than the time limit of a test, which says less."""


def command(*arguments: str) -> list[str]:
    """``python src/train.py ...``, which works from any folder."""
    return [sys.executable, str(ROOT / "src" / "train.py"), *arguments]


def environment(**extra: str) -> dict[str, str]:
    """Ours, without what would change a command."""
    kept = {name: value for name, value in os.environ.items() if name not in ("HYDRA_FULL_ERROR", "PYTHONPATH")}
    return {**kept, **extra}


def train(folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a folder to its end."""
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=PATIENCE
    )


SIGNALLED = """
import os, runpy, sys

text, number, script, *arguments = sys.argv[1:]
write = sys.stdout.write

def write_and_signal(written):
    write(written)
    if text in written:
        sys.stdout.flush()
        os.kill(os.getpid(), int(number))

sys.stdout.write = write_and_signal
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


def signalled(folder: Path, text: str, number: signal.Signals, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command that gets a signal at the moment when it has printed a text, however slow the machine is."""
    _, *plain = command(*arguments)
    watched = [sys.executable, "-c", SIGNALLED, text, str(int(number)), *plain]
    return subprocess.run(watched, cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE)


def succeeds(folder: Path, *arguments: str) -> str:
    """What a command prints that ends with exit code 0."""
    done = train(folder, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout
