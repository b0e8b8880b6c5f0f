"""The kit for a machine with a GPU, where there is none."""

import csv
import io
import json
import zipfile

import pytest
from benchmarks.gpu import bundle, needed, results

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
    results.add(out, "cuda", "tests", "c", 3)
    assert json.loads(out.read_text())["tests"] == {"c": 3}
