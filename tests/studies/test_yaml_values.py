"""Single values of YAML files, however they are written."""

import pytest

from lowrung.studies import yaml_values

KEYS = ("hydra", "sweep", "subdir")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hydra:\n  sweep:\n    dir: a\n    subdir: ${hydra.job.num}\n", "${hydra.job.num}"),
        ("hydra:\n        sweep:\n          subdir: \"x 'y'\\u00fc\"\n", "x 'y'ü"),
        ("hydra: {run: {subdir: no}, list: [{subdir: no}], sweep: {subdir: 'r=4'}}", "r=4"),
        ("? [1, 2]\n: 3\nhydra: {sweep: {subdir: >-\n  a\n  b}}", None),
        ("subdir: no\nsweep: {subdir: no}\nhydra: {sweep: {}}", None),
        ("hydra: {sweep: {subdir: [1]}}", None),
        ("hydra: [sweep, subdir]", None),
        ("hydra: text", None),
        ("", None),
        ("\x00", None),
        ("hydra: {sweep", None),
    ],
)
def test_a_value_is_found_by_its_keys_or_not_at_all(tmp_path, text, expected):
    file = tmp_path / "multirun.yaml"
    file.write_text(text, encoding="utf-8")
    assert yaml_values.value(file, *KEYS) == expected


def test_what_comes_after_the_value_is_not_read(tmp_path):
    file = tmp_path / "multirun.yaml"
    file.write_text("hydra: {sweep: {subdir: here}}\n: [broken", encoding="utf-8")
    assert yaml_values.value(file, *KEYS) == "here"


def test_a_file_that_is_gone_or_a_folder_has_none(tmp_path):
    assert yaml_values.value(tmp_path / "multirun.yaml", *KEYS) is None
    assert yaml_values.value(tmp_path, *KEYS) is None
