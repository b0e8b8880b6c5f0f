"""The wheel, installed where no checkout is: `lowrung train` does there what `python src/train.py` does here."""

import json
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lowrung.store.layout import ROOT
from tests.terminal import PATIENCE, environment, train

pytestmark = pytest.mark.slow

SOURCES = ("conf", "sweeps", "src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")

EXPERIMENT = """\
# @package _global_
defaults:
  - override /model: tiny
  - override /data: number_words
  - override /train: smoke
lora:
  r: 3
data:
  train_size: 32
  eval_size: 8
verify:
  prompts: 2
  new_tokens: 2
"""


def run(*command: str | Path, folder: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, env=environment(**extra), capture_output=True, text=True, timeout=PATIENCE
    )


def needed(package: str) -> set[Path]:
    """What lies in site-packages of all that a package depends on without extras, and of what that depends on."""
    found: set[Path] = set()
    asked, seen = [Requirement(text) for text in metadata.requires(package) or ()], set()
    while asked:
        one = asked.pop()
        extras = ["", *sorted(one.extras)]
        wanted = one.marker is None or one.marker.evaluate({"extra": ""})
        if not wanted or (name := f"{canonicalize_name(one.name)}{extras}") in seen:
            continue
        seen.add(name)
        dist = metadata.distribution(one.name)
        site = Path(str(dist.locate_file("")))
        tops = {file.parts[0] for file in dist.files or () if file.parts[0] not in ("..", "__pycache__")}
        found |= {site / top for top in tops}
        for text in dist.requires or ():
            needs = Requirement(text)
            if needs.marker is None or any(needs.marker.evaluate({"extra": extra}) for extra in extras):
                needs.marker = None
                asked.append(needs)
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the wheel is built from, elsewhere: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def installed(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, inside a git repository that is not ours.

    It has what lowrung depends on, as the tests have it, and nothing else: no extra, and no tool of the tests.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = run(*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder=sources)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("lowrung-*.whl")
    python = folder / "venv" / "bin" / "python"
    venv.create(folder / "venv", symlinks=True)
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    for path in needed("lowrung"):
        (packages / path.name).symlink_to(path)
    done = run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    assert done.returncode == 0, done.stderr
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "another project"]):
        assert run(*git, *command, folder=folder).returncode == 0
    return folder / "venv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    made = tmp_path / "a folder"
    made.mkdir()
    return made


class TestInstalled:
    @staticmethod
    def lowrung(installed: Path, folder: Path, *arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return run(installed / "bin" / "lowrung", *arguments, folder=folder, **extra)

    def test_nothing_of_the_checkout_is_found(self, installed, folder):
        code = "import hydra_plugins.lowrung, lowrung; print(lowrung.__file__, hydra_plugins.lowrung.__file__)"
        found = run(installed / "bin" / "python", "-c", code, folder=folder).stdout.split()
        assert [Path(path).is_relative_to(installed) for path in found] == [True, True]

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--help"],
            ["--cfg", "job", "lora=rslora", "lora.r=4"],
            ["--cfg", "hydra", "--package", "hydra.sweeper.params", "sweeps=rank_ladder"],
            ["-m", "lora.r=4,0", "lora=rslra", "hydra.sweeper.n_trials=ten"],
            ["--config-dir", "absent", "--cfg", "job"],
        ],
    )
    def test_it_does_what_the_script_does(self, installed, folder, arguments):
        ours, theirs = train(folder, *arguments), self.lowrung(installed, folder, "train", *arguments)
        assert (theirs.returncode, theirs.stdout, theirs.stderr) == (ours.returncode, ours.stdout, ours.stderr)

    def test_a_config_folder_of_the_users(self, installed, folder):
        (folder / "mine" / "experiment").mkdir(parents=True)
        (folder / "mine" / "experiment" / "small.yaml").write_text(EXPERIMENT)
        own = ["train", "--config-dir", "mine", "+experiment=small"]
        assert "\n  r: 3\n" in self.lowrung(installed, folder, *own, "--cfg", "job").stdout
        refused = self.lowrung(installed, folder, *own, "lora.rank=4")
        assert refused.stderr == "Error: lora.rank is not a setting. Did you mean lora.r?\n"
        done = self.lowrung(installed, folder, *own, "-m", "lora.r=2,4")
        assert done.returncode == 0, done.stdout + done.stderr
        (board,) = folder.glob("multirun/*/leaderboard.json")
        rows = json.loads(board.read_text())
        assert sorted((row["point"]["lora.r"], row["status"]) for row in rows) == [("2", "complete"), ("4", "complete")]
        recorded = json.loads(next(folder.glob("runs/*/environment.json")).read_text())
        assert recorded["commit"] == "unknown"

    @pytest.mark.parametrize(("line", "offered"), [("train lora=rs", ["lora=rslora"]), ("merge lora=rs", [])])
    def test_the_shell_completes(self, installed, folder, line, offered):
        done = self.lowrung(installed, folder, "-sc", "query=bash", COMP_LINE=f"lowrung {line}")
        assert (done.returncode, done.stdout.split()) == (0, offered)
        installing = self.lowrung(installed, folder, "train", "-sc", "install=bash").stdout
        assert installing.endswith("-F hydra_bash_completion lowrung\n")


def test_a_source_distribution_holds_what_the_wheel_needs(sources, tmp_path):
    code = "import os, setuptools.build_meta as backend; print(backend.build_sdist(os.environ['TO']))"
    built = run(sys.executable, "-c", code, folder=sources, TO=str(tmp_path))
    assert built.returncode == 0, built.stderr
    shutil.unpack_archive(tmp_path / built.stdout.splitlines()[-1], tmp_path)
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    for name in ("conf", "sweeps"):
        files = {path.relative_to(unpacked) for path in (unpacked / name).rglob("*.yaml")}
        assert files == {path.relative_to(ROOT) for path in (ROOT / name).rglob("*.yaml")}
    assert (unpacked / "setup.py").exists()
    assert [path.name for path in (unpacked / "src" / "hydra_plugins").iterdir()] == ["lowrung"]
