"""``python -m benchmarks.gpu.bundle --has FILE``: packs what a machine with a GPU and no network needs to be measured.

One tar with the source and the wheels of what the machine lacks; no weights, since the models are built there from a
seed. ``pip list`` on that machine writes the file. docs/gpus.md shows the commands.
"""

import argparse
import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu import needed
from benchmarks.gpu.needed import ROOT, Unusable
from lowrung.config import signature

LIMIT = 60 * 10**6
"""Bytes of a bundle."""

FOLDER = "lowrung-gpu"

GLIBC = range(5, 40)
"""The minor versions of glibc whose wheels are taken; pip asks for each by name."""

FROM_SOURCE = ("antlr4-python3-runtime",)
"""Pure Python that PyPI has as source alone; Hydra needs it."""

UNUSED = {"mlflow": ("mlflow/server/js/",), "plotly": ("plotly/labextension/", ".data/data/")}
"""What of a wheel no run needs: pages that a server shows, and what Jupyter shows. 10 MB."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Packs, and says what is in it and how large it is."""
    asked = _arguments(arguments)
    if asked.check:
        return check()
    try:
        has = needed.parse(asked.has.read_text(encoding="utf-8"))
        cuda = asked.cuda or cuda_of(has)
        has |= dict.fromkeys(asked.keep)
        wanted = needed.lacking(has, needed.target(asked.python))
        with tempfile.TemporaryDirectory(prefix="lowrung-bundle-") as scratch:
            folder = Path(scratch, FOLDER)
            fill(folder, wanted, asked.python, cuda)
            unknown = sorted(name for name, version in has.items() if version is None)
            pack(folder, asked.out)
    except (Unusable, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(f"{asked.out}: {asked.out.stat().st_size / 1e6:.1f} MB, {len(wanted)} wheels for Python {asked.python}")
    if unknown:
        print(
            f"{len(unknown)} packages of the list have no version, and are taken to do. install.sh checks them there."
        )
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.bundle", description=__doc__)
    parser.add_argument("--has", type=Path, help="a file with what `pip list` prints on that machine")
    parser.add_argument("--python", default="3.12", help="that machine's Python, such as 3.12")
    parser.add_argument("--cuda", help="the CUDA of its torch, such as 13.0; by default as `pip list` has it")
    parser.add_argument("--keep", nargs="+", default=[], help="packages to take as they are there, in any version")
    parser.add_argument("--out", type=Path, default=Path("lowrung-gpu.tar.gz"), help="the tar that is written")
    parser.add_argument("--check", action="store_true", help="packs nothing: checks the packages of this environment")
    asked = parser.parse_args(arguments)
    if not (asked.has or asked.check):
        parser.error(
            "--has FILE is needed: on the machine with the GPU, `python3 -m pip list > packages.txt` writes it"
        )
    if not re.fullmatch(r"3\.\d+", asked.python):
        parser.error(f"--python must be a version such as 3.12, but is {asked.python}")
    if asked.cuda and not re.fullmatch(r"\d+\.\d+", asked.cuda):
        parser.error(f"--cuda must be a version such as 13.0, but is {asked.cuda}")
    return asked


def check() -> int:
    """Says what the packages of this environment lack; 1 where one is missing, and a wrong version is a warning."""
    missing, others = needed.broken()
    for problem in missing:
        print(f"Error: {problem}.", file=sys.stderr)
    for problem in others:
        print(f"warning: {problem}.", file=sys.stderr)
    return 1 if missing else 0


def cuda_of(has: Mapping[str, str | None]) -> str | None:
    """The CUDA of a machine's torch, such as 13.0: by its build, or by the runtime that pip brought for it."""
    if match := re.search(r"\+cu(\d+)(\d)$", has.get("torch") or ""):
        return f"{match[1]}.{match[2]}"
    runtimes = [version for name, version in has.items() if name.startswith("nvidia-cuda-runtime") and version]
    return ".".join(runtimes[0].split(".")[:2]) if len(runtimes) == 1 else None


def fill(folder: Path, wanted: Mapping[str, str], python: str, cuda: str | None) -> None:
    """Writes a bundle's folder: the source as git lists it, the wheels, and how to install them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("docs/images/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    about = {"commit": signature.git_commit(), "python": python, "cuda": cuda, "wheels": dict(wanted)}
    (folder / "bundle.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    wheels = folder / "wheels"
    wheels.mkdir()
    fetch(wheels, wanted, python)
    for wheel in sorted(wheels.glob("*.whl")):
        slim(wheel, cuda)


def fetch(folder: Path, wanted: Mapping[str, str], python: str) -> None:
    """Brings the wheels by pip, from its index or its cache.

    Raises:
        Unusable: when there is no wheel for that machine.
    """
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC] + ["manylinux2014_x86_64", "manylinux1_x86_64"]
    machine = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    machine += [f"--platform={platform}" for platform in platforms]
    built = [f"{name}=={version}" for name, version in wanted.items() if name in FROM_SOURCE]
    pinned = [f"{name}=={version}" for name, version in wanted.items() if name not in FROM_SOURCE]
    for command, names in ((["wheel"], built), (["download", *machine], pinned)):
        to = ["--wheel-dir" if command == ["wheel"] else "--dest", str(folder)]
        if names:
            _pip(*command, "--no-deps", *to, *names)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unusable(f"pip could not bring the wheels: {done.stderr.strip()}")


def slim(wheel: Path, cuda: str | None) -> None:
    """Takes out of a wheel what no run needs there, of those of `UNUSED` and of bitsandbytes.

    Args:
        wheel: is written anew.
        cuda: the only version that bitsandbytes keeps its library for; None keeps all of CUDA's.

    Raises:
        Unusable: when bitsandbytes has none for that version.
    """
    library = f"_cuda{cuda.replace('.', '')}.so" if cuda else "_cuda"
    package = wheel.name.split("-")[0]
    with zipfile.ZipFile(wheel) as source:
        names = [name for name in source.namelist() if not any(part in name for part in UNUSED.get(package, ()))]
        if package == "bitsandbytes":
            names = [name for name in names if not name.endswith(".so") or library in name or "_cpu.so" in name]
            if not any(library in name for name in names):
                raise Unusable(f"--cuda must be one that {wheel.name} has a library for, but is {cuda}.")
        if len(names) == len(source.namelist()):
            return
        with zipfile.ZipFile(aside := wheel.with_suffix(".aside"), "w", zipfile.ZIP_DEFLATED) as target:
            record = next(name for name in names if name.endswith(".dist-info/RECORD"))
            for name in names:
                target.writestr(name, source.read(name) if name != record else _record(source, names, record))
    aside.replace(wheel)


def _record(source: zipfile.ZipFile, names: Sequence[str], record: str) -> str:
    """The list of a wheel's files with their hashes."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in names:
        data = source.read(name)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.writerow((name, "", "") if name == record else (name, f"sha256={digest}", len(data)))
    return text.getvalue()


def pack(folder: Path, out: Path) -> None:
    """Writes the tar.

    Raises:
        Unusable: when it is larger than `LIMIT`; it is deleted then.
    """
    with tarfile.open(out, "w:gz") as tar:
        tar.add(folder, FOLDER)
    size = out.stat().st_size
    if size > LIMIT:
        out.unlink()
        wheels = sorted((folder / "wheels").iterdir(), key=lambda wheel: -wheel.stat().st_size)[:5]
        largest = ", ".join(f"{wheel.name} {wheel.stat().st_size / 1e6:.0f} MB" for wheel in wheels)
        raise Unusable(
            f"A bundle must not be larger than {LIMIT / 1e6:.0f} MB, but is {size / 1e6:.0f}: {largest}. Name the"
            " CUDA of its torch by --cuda, or take what the machine has by --keep."
        )


if __name__ == "__main__":
    sys.exit(main())
