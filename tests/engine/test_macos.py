"""A sweep with all taken away that Linux has and macOS has not: a stand-in, since the tests run on Linux."""

import json

import pytest

from tests.terminal import train

WITHOUT_LINUX = """
import multiprocessing, os, pathlib, select, signal, sys

linux = ["copy_file_range", "eventfd", "fdatasync", "getxattr", "listxattr", "memfd_create", "pidfd_open", "pipe2",
         "posix_fadvise", "posix_fallocate", "process_cpu_count", "sched_getaffinity", "sched_setaffinity",
         "setresgid", "setresuid", "setxattr", "splice", "O_DIRECT", "O_PATH", "O_TMPFILE"]
for module, names in ((os, linux), (select, ["epoll"]), (signal, ["SIGPWR", "SIGSTKFLT", "sigtimedwait"])):
    for name in names:
        vars(module).pop(name, None)
multiprocessing.get_all_start_methods = lambda: ["spawn"]
PASSED_OVER = {"glob", "io", "os", "pathlib", "posixpath", "genericpath"}


def refuse(event, arguments):
    \"\"\"Opens nothing below /proc and /sys for lowrung's own modules.\"\"\"
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith(("/proc", "/sys")):
        frame = sys._getframe(1)
        while frame and frame.f_globals.get("__name__", "").partition(".")[0] in PASSED_OVER:
            frame = frame.f_back
        if frame and frame.f_globals.get("__name__", "").startswith("lowrung"):
            raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))


sys.addaudithook(refuse)
"""

SMALL = "model=tiny data=number_words data.train_size=32 data.eval_size=8 train=smoke verify=none track=none study=s"


@pytest.mark.slow
def test_a_sweep_needs_nothing_that_linux_alone_has(tmp_path):
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "sitecustomize.py").write_text(WITHOUT_LINUX)
    done = train(tmp_path, "-m", *SMALL.split(), "lora.r=2", PYTHONPATH=str(tmp_path / "patches"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    board = json.loads((tmp_path / "multirun" / "s" / "leaderboard.json").read_text())
    assert [row["status"] for row in board] == ["complete"]
