"""docs/configuration.md says what the schema and conf/ say."""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import pytest
from omegaconf import OmegaConf

from lowrung.config import reference, schema
from lowrung.store.layout import ROOT
from tests import composing

KINDS = [
    kind for kind in vars(schema).values() if dataclasses.is_dataclass(kind) and kind.__module__ == schema.__name__
]


@pytest.fixture(scope="module")
def page() -> str:
    return reference.page()


@pytest.fixture(scope="module")
def composed() -> Any:
    with composing.composer() as composer:
        return composer.compose()


def row(page: str, key: str) -> list[str]:
    """The cells of a setting's row after its name."""
    line = next(line for line in page.splitlines() if line.startswith(f"| `{key}` |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


def leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a composed config, Hydra's own left out."""
    for name in node:
        child = node._get_node(name)
        if OmegaConf.is_dict(child) and not child._is_none() and len(child):
            yield from leaves(child, f"{prefix}{name}.")
        elif not str(name).startswith("_"):
            yield prefix + name


def test_the_file_is_what_the_schema_says_now(page):
    is_current = reference.PAGE.exists() and reference.PAGE.read_text(encoding="utf-8") == page
    assert is_current, "docs/configuration.md is not what the schema and conf/ say: run `make docs`"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_field_has_a_text_and_every_text_a_field(kind):
    texts = reference.attributes(kind)
    assert list(texts) == [field.name for field in dataclasses.fields(kind)]
    assert [name for name, text in texts.items() if not text] == []


@pytest.mark.parametrize("name", ["sweeper", "launcher"])
def test_every_setting_of_hydra_s_parts_has_a_text(composed, name):
    kind = OmegaConf.get_type(composed.hydra[name])
    assert kind is not None
    hydras = ("_target_", "defaults")
    shown = [field.name for field in dataclasses.fields(kind) if field.name not in hydras]
    assert shown
    assert list(reference.attributes(kind)) == shown


def test_every_composed_key_is_there_once(page, composed):
    ours = [key for key in leaves(composed) if not key.startswith("hydra.")]
    theirs = [f"hydra.{name}.{key}" for name in ("sweeper", "launcher") for key in leaves(composed.hydra[name])]
    assert len(ours) > 50
    assert len(theirs) >= 4
    for key in (*ours, *theirs):
        key = re.sub(r"^verify\.tolerances\.\w+", "verify.tolerances.<dtype>", key)
        is_of_a_part = key.startswith(("hydra.sweeper.sampler.", "hydra.sweeper.pruner.", "hydra.launcher."))
        count = page.count(f"| `{key}` |")
        assert count >= 1 if is_of_a_part else count == 1, key  # each choice of a part has its own


def test_every_choice_is_there(page):
    for path in (ROOT / "conf").glob("*/*.yaml"):
        is_default = f"`{path.parent.name}={path.stem}` (the default): " in page
        assert is_default or f"`{path.parent.name}={path.stem}`: " in page
    assert page.count("(the default): ") == 6


def test_rows_have_types_and_composed_defaults(page):
    assert row(page, "lora.r")[:2] == ["int", "`8`"]
    assert row(page, "lora.alpha")[:2] == ["float", "`32.0`"]
    assert row(page, "model.revision")[:2] == ["str or null", "`null`"]
    assert row(page, "store")[:2] == ["str", "`runs`"]
    assert row(page, "hydra.launcher.workers")[:2] == ["any", "`null`"]
    assert row(page, "hydra.sweeper.pruner.percentile")[0] == "float"
    assert "float32 `0.001`" in row(page, "verify.tolerances.<dtype>.max_abs_logit_diff")[1]


def test_texts_name_values_and_link_papers(page):
    assert "one of `linear`, `cosine`, " in row(page, "train.lr_scheduler_type")[2]
    assert "[arXiv:2402.09353](https://arxiv.org/abs/2402.09353)" in row(page, "lora.use_dora")[2]
    assert not re.search(r"(?<!\[)arXiv:\d(?!.*\]\()", page)


def test_lines_of_a_table_have_equally_many_cells(page):
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines} == {6}


@dataclass
class Parent:
    """A parent.

    Attributes:
        first: from the parent,
            over two lines: with a colon.
        second: replaced below.
    """

    first: int = 0
    second: str | None = None


@dataclass
class Child(Parent):
    """A child with ``code``.

    It has two paragraphs.

    Attributes:
        second: from the child.
        third: ``a`` or `DTYPES`, one | other.

    Raises:
        Nothing: ever.
    """

    third: Optional[list[float]] = None  # noqa: UP045
    _hidden: int = 0


@dataclass
class Bare:
    field: int = 0


def test_texts_come_from_the_class_that_declares_them():
    assert reference.attributes(Child) == {
        "first": "from the parent, over two lines: with a colon.",
        "second": "from the child.",
        "third": "`a` or `float32`, `bfloat16`, `float16`, one | other.",
    }
    assert reference.summary(Child) == "A child with `code`. It has two paragraphs."
    assert reference.attributes(Bare) == {}


def test_settings_are_rows():
    values = {"first": 3, "second": "???", "third": [0.5], "_hidden": 1}
    assert list(reference.settings(Child, values, "group.")) == [
        reference.Setting("group.first", "int", "`3`", "from the parent, over two lines: with a colon."),
        reference.Setting("group.second", "str or null", "—", "from the child."),
        reference.Setting(
            "group.third",
            "list[float] or null",
            "`[0.5]`",
            "`a` or `float32`, `bfloat16`, `float16`, one | other.",
        ),
    ]


def test_a_comment_is_what_stands_before_the_values(tmp_path):
    (tmp_path / "choice.yaml").write_text("# Two lines\n# in one:\n#   python src/train.py a=b\nname: x\n# not this\n")
    assert reference.comment(tmp_path / "choice.yaml") == "Two lines in one: `python src/train.py a=b`"
    (tmp_path / "bare.yaml").write_text("name: x\n")
    assert reference.comment(tmp_path / "bare.yaml") == ""


@pytest.mark.slow
def test_the_command_writes_the_file(monkeypatch, tmp_path, capsys, page):
    monkeypatch.setattr(reference, "PAGE", tmp_path / "page.md")
    reference.main()
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page
    assert str(tmp_path / "page.md") in capsys.readouterr().out
