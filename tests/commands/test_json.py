"""docs/programs.md says what commands print with --json."""

import dataclasses
import errno
import io
import json
import sys

import pytest

from lowrung import shapes
from lowrung.__main__ import COMMANDS, main, parser


def test_the_page_has_the_shapes_of_the_code():
    assert shapes.PAGE.read_text(encoding="utf-8") == shapes.page(), "run `make docs`"


def test_every_command_says_what_it_prints():
    kinds = shapes.results(parser())
    assert len(kinds) == len(COMMANDS)
    fields = {field.name for found in kinds.values() for kind in found for field in dataclasses.fields(kind)}
    assert not fields & {"lowrung", "shape", "command", "error"}
    assert all(kinds.values())


def document(capsys, *arguments):
    """The document of a command, and its exit code."""
    try:
        main([*arguments, "--json"])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "line",
    [("inspect", "mine/0"), ("compare", "mine/0", "cd34", "--new-tokens", "0")],
)
def test_what_is_printed_is_what_is_documented(here, capsys, line):
    code, printed = document(capsys, *line)
    fields = [field.name for kind in shapes.results(parser())[line[0]] for field in dataclasses.fields(kind)]
    assert code == 0
    assert list(printed) == ["lowrung", "shape", "command", *fields]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("inspect", "mini/0"), "Did you mean mine/0?"),
        (("compare", "ab12"), "compare needs at least two runs"),
        (("merge", "ab12"), "lowrung merge: the following arguments are required: --to"),
        (("clean", "mine", "--dry"), "lowrung: unrecognized arguments: --dry"),
        (("nonsense",), "invalid choice: 'nonsense'"),
        (("train", "lora.rnk=2"), "lora.rnk is not a setting. Did you mean lora.r?"),
        (("train", "hydra.sweeper.dry_run=true"), "hydra.sweeper.dry_run=true needs -m"),
        (("train", "hydra.sweeper.budget={cpu_hours:1}"), "hydra.sweeper.budget={cpu_hours:1} needs -m"),
        (("train", "hydra/sweeper/sampler=random"), "hydra/sweeper/sampler=random needs -m"),
    ],
)
def test_what_is_refused_is_a_document_too(here, capsys, line, said):
    code, printed = document(capsys, *line)
    assert (code, printed["error"]["exit_code"], printed["command"]) == (2, 2, line[0])
    assert said in " ".join(printed["error"]["problems"])


@pytest.mark.parametrize("name", [command.__name__.rpartition(".")[2] for command in COMMANDS])
def test_an_output_without_room_is_an_error_in_words_for_every_command(monkeypatch, capsys, name):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as ended:
        main([name, "--no-such-option", "--json"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
