"""What is wrong is found, what to do is said, and no secret is repeated."""

import http.server
import json
import os
import threading

import pytest

from lowrung.__main__ import main
from lowrung.checks import computing, disks, finding, software, surroundings
from lowrung.checks.finding import Level

SECRET = "hunter2"


def levels(findings):
    """The level of each finding by its name."""
    return {each.name: each.level for each in findings}


def fake(**found):
    """A program that prints what torch would be asked for."""
    facts = {"torch": "2.0", "cuda": None, "kernels": "AVX2", "gpus": [], "bf16": False, **found}
    return f"print({json.dumps(json.dumps(facts))})"


def own_library(problem=None):
    """A program that prints what bitsandbytes would be asked for."""
    return f"print({json.dumps(json.dumps({'version': '0.50', 'problem': problem}))})"


@pytest.mark.usefixtures("on_a_cpu")  # as the torch that is asked
def test_doctor_says_everything_as_text_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(computing, "_ASK", fake())
    for name in ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, SECRET)
    for name in ("HTTPS_PROXY", "HF_HOME"):
        monkeypatch.setenv(name, f"http://me:{SECRET}@proxy:3128")
    monkeypatch.setattr(computing, "_ASK_BITSANDBYTES", own_library())
    main(["doctor", "--json"])
    out = capsys.readouterr().out
    assert SECRET not in out
    found = {each["name"]: each for each in json.loads(out)["findings"]}
    assert {
        "lowrung",
        "Python",
        "libraries",
        "processor",
        "cores",
        "torch",
        "store",
        "cache",
        "tracker",
    } <= found.keys()
    assert "HF_TOKEN, MLFLOW_TRACKING_PASSWORD, HTTPS_PROXY" in found["set, not shown"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["postgresql", "http", "mysql+pymysql"])
def test_a_password_in_an_address_is_wrong_and_not_repeated(tmp_path, monkeypatch, capsys, scheme):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(computing, "_ASK", fake())
    monkeypatch.setattr(computing, "_ASK_BITSANDBYTES", own_library())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:{SECRET}@127.0.0.1:1/x")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert "wrong  tracker" in out
    assert SECRET not in out + err


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(60)", "did not answer in 0.2 s"),
        ("raise ImportError('libcudart.so.13')", "cannot be imported (ImportError: libcudart.so.13)"),
        ("import os; os._exit(9)", "ended with code 9"),
    ],
)
def test_a_torch_that_hangs_or_fails_is_wrong(program, words):
    (found,) = computing.torch(program, 0.2 if "sleep" in program else 60)
    assert found.level is Level.WRONG
    assert words in found.found


def test_bitsandbytes_without_its_own_library_is_wrong():
    (found,) = computing.bitsandbytes(own_library("libcudart.so.13: cannot open\nand a long text"), 60)
    assert found.level is Level.WRONG
    assert "(libcudart.so.13: cannot open)" in found.found
    assert levels(computing.bitsandbytes(own_library(), 60)) == {"bitsandbytes": Level.OK}


@pytest.mark.slow
def test_the_installed_bitsandbytes_is_asked():
    pytest.importorskip("bitsandbytes")
    assert levels(computing.bitsandbytes(computing._ASK_BITSANDBYTES, 90)) == {"bitsandbytes": Level.OK}


@pytest.mark.parametrize(
    ("program", "level", "words"),
    [
        (("echo", "gpu* up 4 idle"), Level.OK, "gpu* up 4 idle"),
        (("true",), Level.NOTE, "has no partition"),
        (("sh", "-c", "echo connection refused >&2; exit 1"), Level.NOTE, "(connection refused)"),
        (("sleep", "60"), Level.NOTE, "did not answer in 0.2 s"),
        (("no-such-program",), Level.NOTE, "cannot be run (FileNotFoundError)"),
    ],
)
def test_slurm_is_asked_whether_it_answers(program, level, words):
    found = surroundings.slurm(program, 0.2 if program[0] == "sleep" else 60)
    assert found.level is level
    assert words in found.found


def test_a_key_in_an_address_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:1/x?api_key={SECRET}")
    (found,) = surroundings.tracker(tmp_path)
    assert SECRET not in str(found)


def test_a_gpu_that_torch_cannot_use_is_wrong(monkeypatch):
    monkeypatch.setattr("lowrung.config.signature.device_kind", lambda: "cuda")
    assert levels(computing.torch(fake(), 60))["GPU"] is Level.WRONG
    assert levels(computing.torch(fake(cuda="13.0"), 60))["GPU"] is Level.WRONG
    found = list(computing.torch(fake(cuda="13.0", gpus=[["H100", 80 * 2**30]], bf16=True), 60))
    assert "H100, 80 GiB, bfloat16 yes" in found[-1].found


def test_threads_that_a_control_group_or_a_variable_slows_are_noted(monkeypatch):
    monkeypatch.setattr(computing, "usable_cores", lambda: 8)
    monkeypatch.setattr(computing, "_quota", lambda: 1.5)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = levels(computing._threads())
    assert [found[name] for name in ("cores", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")] == [Level.NOTE] * 3


def test_libraries_that_are_too_old_or_missing_are_wrong(monkeypatch):
    asked = ["numpy>=99", "no-such-package", "pytest>=1", 'also-missing; extra == "metrics"', 'old<0; extra == "dev"']
    monkeypatch.setattr("importlib.metadata.requires", lambda _: asked)
    found = {each.name: each for each in software.libraries()}
    assert "numpy must be >=99" in found["numpy"].found
    assert found["no-such-package"].level is Level.WRONG
    assert "pytest" in found["libraries"].found
    assert found["extra metrics"].level is Level.NOTE
    assert "[metrics]" in str(found["extra metrics"].remedy)
    assert "old" not in found


def test_a_folder_that_is_a_file_is_wrong(tmp_path):
    (tmp_path / "runs").write_text("")
    assert levels(disks.folder("store", tmp_path / "runs"))["store"] is Level.WRONG


def test_locks_that_keep_nobody_out_and_locks_that_fail_are_found(tmp_path, monkeypatch):
    assert disks.lock_problem(tmp_path) is None
    monkeypatch.setattr(disks, "_TRY", "")
    assert disks.lock_problem(tmp_path) == "a second process got a lock that was held"
    (found,) = disks.folder("store", tmp_path)
    assert found.level is Level.WRONG
    assert list(tmp_path.iterdir()) == []


def test_little_room_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(disks, "LITTLE", 2**70)
    assert levels(disks.folder("store", tmp_path))["store"] is Level.NOTE


class _Server(http.server.BaseHTTPRequestHandler):
    code = 200

    def do_GET(self):
        self.send_response(self.code)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("code", "level"), [(200, Level.OK), (403, Level.NOTE), (None, Level.WRONG)])
def test_a_server_is_asked_whether_it_is_there(tmp_path, monkeypatch, code, level):
    monkeypatch.setattr(_Server, "code", code)
    with http.server.HTTPServer(("127.0.0.1", 0), _Server) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        if code is None:
            server.server_close()
            found = list(surroundings.tracker(tmp_path))
        else:
            threading.Thread(target=server.handle_request).start()
            found = list(surroundings.tracker(tmp_path))
    assert levels(found) == {"tracker": level}


def test_a_check_that_has_no_end_is_a_finding_beside_what_was_found():
    ended = threading.Event()

    def ask():
        yield finding.ok("disk", "is there")
        ended.wait(60)
        yield finding.ok("locks", "work")

    found = list(finding.Check("disk", ask, 0.05, "Mount it anew.").findings())
    ended.set()
    assert [(each.level, each.found) for each in found] == [
        (Level.OK, "is there"),
        (Level.WRONG, "did not answer in 0.05 s"),
    ]


def test_a_check_that_fails_is_a_finding():
    (found,) = finding.Check("disk", lambda: [finding.ok("disk", str(1 / 0))], 60, "").findings()
    assert (found.level, found.name) == (Level.WRONG, "disk")
    assert "could not be checked (ZeroDivisionError: division by zero)" in found.found


@pytest.mark.parametrize("width", [40, 80])
def test_a_finding_has_as_many_lines_as_the_terminal_needs_and_commands_stay_whole(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    lines = str(finding.wrong("libraries", "torch 2.13.0, " * 20, f"Run `pip install {'x ' * 40}`.")).splitlines()
    assert max(map(len, lines[:-1])) <= width
    assert all(line.startswith(("    ", "wrong  libraries")) for line in lines)
    assert lines[-1].endswith(f"-> Run `pip install {'x ' * 40}`.")


def test_a_finding_has_its_remedy_below_it():
    lines = str(finding.wrong("disk", "is full", "Free some.")).splitlines()
    assert lines[0].split() == ["wrong", "disk", "is", "full"]
    assert lines[1].strip() == "-> Free some."
    assert os.linesep not in str(finding.ok("disk", "has room"))
