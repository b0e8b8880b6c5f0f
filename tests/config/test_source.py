"""Signatures change with the code that determines results, and with no other."""

import ast
import shutil
from pathlib import Path

import pytest

from lowrung.config import source
from lowrung.store.layout import ROOT

PACKAGE = ROOT / "src" / "lowrung"
SCORE = "finetune/models/score.py"

CARRIERS = (
    "config.machine",
    "config.prior",
    "config.source",
    "costs.facts",
    "costs.sizes",
    "errors",
    "runs.parallel",
    "store",
    "track.base",
)
"""What a run imports without a change to its numbers: values, refusals, what lies on disk, whom it hands its points."""


FEW = (SCORE, "finetune/training/trainer.py", "runs/execution.py", "config/schema.py", "cli.py", "adapters/combine.py")


@pytest.fixture
def package(tmp_path):
    """A copy of a few files of the package, to be changed; to read all takes 0.2 s."""
    for name in FEW:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PACKAGE / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def digest(package):
    """That of the copy as it was."""
    return source.digest_of(package)


def change(package: Path, name: str, old: str, new: str) -> None:
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_a_copy_has_the_digest_of_the_package(tmp_path):
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("__pycache__")))
    assert source.digest_of(copy) == source.digest()


@pytest.mark.parametrize(
    "text", ["# A comment.\n\n\nX = 1\n", '"""A docstring."""\nX = 1\n', 'X = 1\n"""Of an attribute."""\n']
)
def test_comments_docstrings_and_blank_lines_keep_it(package, digest, text):
    digests = []
    for each in ("X = 1\n", text):
        (package / "finetune" / "added.py").write_text(each)
        digests.append(source.digest_of(package))
    assert digests[0] == digests[1] != digest


def test_a_corrected_docstring_of_a_function_keeps_it(package, digest):
    function = next(n for n in ast.walk(ast.parse((package / SCORE).read_text())) if isinstance(n, ast.FunctionDef))
    docstring = ast.get_docstring(function)
    assert docstring
    change(package, SCORE, docstring.splitlines()[0], "Another sentence.")
    assert source.digest_of(package) == digest


@pytest.mark.slow
def test_a_function_that_is_only_its_docstring_is_still_there(package):
    file = package / "finetune" / "added.py"
    digests = []
    for text in ("", 'def f():\n    """Nothing."""\n', 'def g():\n    """Nothing."""\n'):
        file.write_text(text)
        digests.append(source.digest_of(package))
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("finetune/training/trainer.py", "1e-9", "1e-8"),
        ("runs/execution.py", '"base/eval_loss"', '"base/loss"'),
        ("config/schema.py", "math.ceil", "math.floor"),
    ],
)
def test_a_changed_constant_changes_it(package, digest, name, old, new):
    change(package, name, old, new)
    assert source.digest_of(package) != digest


def test_a_file_that_moves_changes_it(package, digest):
    (package / SCORE).rename(package / "finetune" / "score.py")
    assert source.digest_of(package) != digest


@pytest.mark.parametrize("name", ["adapters/combine.py", "sweeps/coordinator.py", "report/leaderboard.py", "cli.py"])
def test_code_that_no_result_comes_from_keeps_it(package, digest, name):
    (package / name).parent.mkdir(parents=True, exist_ok=True)
    (package / name).write_text("X = 1\n")
    assert source.digest_of(package) == digest


@pytest.mark.slow
def test_all_that_a_run_imports_is_hashed_or_known_to_carry_only():
    """Followed from what assembles a run, and from what makes its tokens, through all imports."""
    hashed = {name_of(file) for file in source._files(PACKAGE)}
    reached: set[str] = set()
    left = {"runs.execution", "finetune.preflight"}
    while left:
        name = left.pop()
        reached.add(name)
        if name in hashed:  # what a carrier imports makes no numbers either
            left |= imported(name) - reached
    packages = {name_of(file) for file in PACKAGE.rglob("__init__.py")}
    carriers = {next((c for c in CARRIERS if f"{name}.".startswith(f"{c}.")), name) for name in reached - hashed}
    assert carriers == set(CARRIERS)
    assert hashed - packages <= reached


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imported(name: str) -> set[str]:
    """The package's own modules that one of its modules imports, anywhere in its text."""
    file = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    file = file if file.is_file() else file.with_suffix("") / "__init__.py"
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lowrung":
            module = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".")
                found.add(inner if is_module(inner) else module)
    return found - {""}


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
