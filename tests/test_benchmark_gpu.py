"""The kit for a machine with a GPU, where there is none."""

import csv
import dataclasses
import fcntl
import io
import json
import math
import os
import subprocess
import sys
import zipfile
from typing import Any

import pytest
import torch
from benchmarks.gpu import __main__ as benchmark
from benchmarks.gpu import bundle, needed, page, results

from lowrung.engine.local import LocalEngine
from lowrung.engine.process import GRACE_SECONDS
from lowrung.store import mailbox
from tests.gpu import conftest as gpu_tests

PLAIN = "Package    Version\n---------- -------\ntorch      2.11.0+cu130\nPy.Yaml  6.0\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PLAIN, {"torch": "2.11.0+cu130", "py-yaml": "6.0"}),
        ("torch==2.11.0\nlocal @ file:///a\n", {"torch": "2.11.0", "local": None}),
        ('[{"name": "Torch", "version": "2.11.0"}]', {"torch": "2.11.0"}),
        ("numpy, torch, zipp.", {"numpy": None, "torch": None, "zipp": None}),
        ("torch  2.11.0  /opt/here\n# a comment\n", {"torch": "2.11.0"}),
    ],
)
def test_a_list_of_packages_in_any_format(text, found):
    assert needed.parse(text) == found


def lacking(has, asked, **requirements):
    return needed.lacking(
        has, needed.target("3.12"), asked=asked,
        requirements=lambda name: requirements.get(name, ()), version={"a": "2", "b": "1", "peft": "3"}.__getitem__,
    )  # fmt: skip


class TestLacking:
    def test_what_is_there_in_range_stays_and_its_own_needs_are_not_followed(self):
        assert lacking({"a": "2.5"}, ["a>=2"], a=["b"]) == {}

    def test_what_is_missing_or_out_of_range_comes_with_what_it_needs(self):
        assert lacking({}, ["a"], a=["b; python_version < '3.13'"]) == {"a": "2", "b": "1"}
        assert lacking({"a": "1", "b": "9"}, ["a>=2"], a=["b", "gone; sys_platform == 'win32'"]) == {"a": "2"}

    def test_a_version_that_is_not_known_will_do_but_not_where_it_computes_a_run(self):
        assert lacking({"a": None, "peft": None}, ["a>=2", "peft"]) == {"peft": "3"}
        assert lacking({"peft": "3"}, ["peft"]) == {}

    def test_extras_of_what_is_there_are_followed(self):
        assert lacking({"a": "2"}, ["a[x]"], a=["b; extra == 'x'"]) == {"b": "1"}

    @pytest.mark.parametrize("has", [{}, {"torch": "1.0"}])
    def test_torch_is_never_brought(self, has):
        with pytest.raises(needed.Unusable, match="torch"):
            lacking(has, ["torch>=2"])


@pytest.mark.parametrize(
    ("has", "cuda"),
    [
        ({"torch": "2.11.0+cu130"}, "13.0"),
        ({"torch": "2.11.0", "nvidia-cuda-runtime": "13.0.96"}, "13.0"),
        ({"torch": "2.6.0", "nvidia-cuda-runtime-cu12": "12.4.1"}, "12.4"),
        ({"torch": "2.11.0"}, None),
        ({"torch": "2.13.0+cpu"}, None),
    ],
)
def test_the_cuda_of_torch(has, cuda):
    assert bundle.cuda_of(has) == cuda


def test_bitsandbytes_keeps_one_library(tmp_path):
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    names = ["b/__init__.py", "b/lib_cpu.so", "b/lib_cuda124.so", "b/lib_cuda130.so", "b/lib_rocm64.so"]
    with zipfile.ZipFile(wheel, "w") as made:
        for name in [*names, "b.dist-info/RECORD"]:
            made.writestr(name, "x")
    with pytest.raises(needed.Unusable, match="--cuda"):
        bundle.slim(wheel, "9.0")
    bundle.slim(wheel, "13.0")
    with zipfile.ZipFile(wheel) as slim:
        record = [row[0] for row in csv.reader(io.StringIO(slim.read("b.dist-info/RECORD").decode()))]
        assert slim.namelist() == record == [names[0], names[1], names[3], "b.dist-info/RECORD"]


def test_a_test_of_a_gpu_is_skipped_with_its_reason():
    assert "no NVIDIA GPU" in (gpu_tests.why_skipped(20, 0, is_there=False) or "")
    assert "needs 60 s" in (gpu_tests.why_skipped(60, 301, is_there=True) or "")
    assert gpu_tests.why_skipped(60, 300, is_there=True) is None


def test_results_of_another_card_are_dropped(tmp_path, monkeypatch):
    out, card = tmp_path / "gpu.json", ["one"]
    monkeypatch.setattr(results, "about", lambda device: {"device": device, "cards": list(card)})
    results.add(out, "cuda", "tests", "a", 1)
    results.add(out, "cuda", "tests", "b", 2)
    assert json.loads(out.read_text())["tests"] == {"a": 1, "b": 2}
    card[:] = ["another"]
    results.add(out, "cuda", "tests", "c", {"losses": [2.0, math.nan]})
    assert json.loads(out.read_text())["tests"] == {"c": {"losses": [2.0, None]}}


# -- the benchmark -----------------------------------------------------------------------------------------------------


@pytest.fixture
def engine():
    with LocalEngine() as engine:
        yield engine


def part(folder, then=lambda: None):
    """A part's work, which posts one result and goes on."""

    def work():
        mailbox.post(folder, {"name": "batch 1", "value": {"tokens": 8}})
        then()

    return work


HOLDS = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
time.sleep(60)
file.write("not ended")
"""


@pytest.mark.slow
def test_what_a_part_has_found_stays_and_what_it_started_ends_where_its_time_is_over(tmp_path, engine):
    late, held = tmp_path / "steps tiny", tmp_path / "held"

    def hang():
        with subprocess.Popen([sys.executable, "-c", HOLDS, str(held)], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            mailbox.post(late, {"name": "child", "value": "holds"})

    found = benchmark.run(engine, late, part(late, hang), benchmark.LEAST)
    assert found["batch 1"] == {"tokens": 8}
    assert found["child"] == "holds"
    assert found["ended"] == "after 5 s, before all was measured"
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the child has ended
        assert file.read() == ""


def test_a_part_that_raises_or_crashes_keeps_what_it_has_found_and_the_next_one_runs(tmp_path, engine):
    def refuse():
        raise ValueError("the reason")

    for name, then, why in (
        ("raises", refuse, "ValueError: the reason"),
        ("crashes", lambda: os._exit(3), "exit code 3"),
    ):
        found = benchmark.run(engine, tmp_path / name, part(tmp_path / name, then), 60.0)
        assert found["batch 1"] == {"tokens": 8}
        assert found["failed"].endswith(why)
    found = benchmark.run(engine, tmp_path / "next", part(tmp_path / "next"), 60.0)
    assert set(found) == {"batch 1", "seconds"}


def test_what_a_part_has_found_is_kept_at_once_and_said_not_to_be_whole(tmp_path, engine):
    kept: list[dict[str, Any]] = []
    folder = tmp_path / "steps tiny"

    def second():
        mailbox.post(folder, {"name": "batch 4", "value": {"tokens": 32}})

    found = benchmark.run(engine, folder, part(folder, second), 60.0, kept.append)
    assert kept == [
        {"batch 1": {"tokens": 8}, "ended": benchmark.KILLED},
        {"batch 1": {"tokens": 8}, "batch 4": {"tokens": 32}, "ended": benchmark.KILLED},
    ]
    assert "ended" not in found


def test_a_part_that_has_no_time_left_is_not_begun(tmp_path, engine):
    found = benchmark.run(engine, tmp_path / "steps tiny", part(tmp_path / "steps tiny"), benchmark.LEAST - 1)
    assert found["ended"].startswith("not begun")
    assert "batch 1" not in found


def test_all_parts_take_less_than_six_minutes_and_the_last_one_may_take_what_is_left():
    assert benchmark.LIMITS["cuda"] + 2 * GRACE_SECONDS < 360
    assert {each.kind for each in benchmark.PARTS} == {each.kind for each in benchmark.TINY}
    assert benchmark.PARTS[-1].share == 1.0


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(results, "has_gpu", lambda: False)
    assert benchmark.main([]) == 0
    assert "skipped: no NVIDIA GPU" in capsys.readouterr().out


def page_of(tmp_path, record):
    docs, file = tmp_path / "gpus.md", tmp_path / "gpu.json"
    docs.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    if record:
        file.write_text(json.dumps(record))
    page.write(file, docs)
    return docs.read_text()


def test_the_page_says_where_nothing_was_measured(tmp_path):
    text = page_of(tmp_path, None)
    assert "Nothing has been measured" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text


def test_the_page_has_what_was_measured_what_found_no_memory_and_what_is_not_whole(tmp_path):
    versions = dict.fromkeys(("torch", "transformers", "trl", "peft"), "1")
    about = {"device": "cuda", "cards": ["H100, 80 GB, 590"], "versions": versions, "date": "2026-12-01", "commit": "c"}
    cell = {
        "planned_bytes": 3e9, "tokens": 2048, "lowrung": {"tokens_per_second": 12345.6, "peak_bytes": 2.5e9},
        "SFTTrainer": {"out_of_memory": True},
    }  # fmt: skip
    steps = {"batch 4": cell, "seconds": 9.0, "ended": "after 50 s, before all was measured"}
    run = {"status": "complete", "memory/peak_bytes": 1e9, "plan/memory_bytes": 1.1e9, "merge/kl": 0.001}
    sweep = {"runs": [run, {"status": "oom"}], "trials_per_hour": 321.0, "tokens_per_second": 5000.0}
    parts = {"steps 8B": steps, "sweeps 0.5B": {"gate nf4": {"failed": "why"}, "workers 2": sweep}}
    text = page_of(tmp_path, {"about": about, "parts": parts})
    assert "H100, 80 GB, 590" in text
    row = "| 2,048 | 12,346 | out of memory | not measured | 2.50 | out of memory | not measured | 3.00 |"
    assert row in text
    assert "Not whole: after 50 s" in text
    assert "| 2 | 1 of 2 | 321 | 5,000 | 1.00 | 1.10 |" in text
    assert "| nf4 | failed |" in text


def test_a_page_that_cannot_be_written_is_said(tmp_path, capsys):
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "none.md").write_text("no marks")
    for name in ("torn.json", "absent.json"):
        assert benchmark.main(["--page", "--json", str(tmp_path / name), "--docs", str(tmp_path / "none.md")]) == 1
    assert capsys.readouterr().out.count("Error: ") == 2


@pytest.mark.slow
def test_steps_of_all_trainers_are_measured_written_at_once_and_the_same_training(tmp_path, monkeypatch):
    """The code that measures a GPU, on a CPU."""
    out, add = tmp_path / "gpu.json", results.add
    written: list[dict[str, Any]] = []

    def seen(*given):
        add(*given)
        written.append(json.loads(out.read_text())["parts"]["steps tiny"])

    monkeypatch.setattr(results, "add", seen)
    asked = ["--device", "cpu", "--shapes", "tiny", "--parts", "steps", "--json", str(out)]
    assert benchmark.main(asked) == 0
    cells = json.loads(out.read_text())["parts"]["steps tiny"]
    assert [part.get("ended") for part in written] == [*[benchmark.KILLED] * 6, None]
    assert list(written[0]["batch 1"]) == ["planned_bytes", "tokens", "lowrung"]
    assert cells.pop("seconds") > 0
    assert list(cells) == ["batch 1", "batch 4"]
    for cell in cells.values():
        assert cell["planned_bytes"] > 0
        losses = [cell[way]["losses"] for way in page.WAYS]
        assert all(cell[way]["tokens_per_second"] > 0 for way in page.WAYS)
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)  # bfloat16
        assert losses[0] == pytest.approx(losses[2], rel=2e-3)


@pytest.mark.slow
def test_a_batch_without_memory_is_recorded_and_the_next_one_is_measured(tmp_path, monkeypatch):
    from benchmarks.gpu import shapes, steps

    def stock(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    shape = dataclasses.replace(shapes.SHAPES["tiny"], batches=(1,))
    monkeypatch.setitem(shapes.SHAPES, "tiny", shape)
    monkeypatch.setattr(steps, "_stock", stock)
    found: dict[str, Any] = {}
    steps.measure("tiny", "none", torch.device("cpu"), found.__setitem__)
    assert found["batch 1"]["SFTTrainer"] == {"out_of_memory": True}
    assert found["batch 1"]["lowrung"]["tokens_per_second"] > 0
