import io
import logging
import re
import sys
import warnings
from functools import partial

import pytest

from lowrung import library_warnings
from lowrung.library_warnings import TABLE, Heard, heard


def said(*acts, instead=True):
    """What is told while some functions run."""
    told: list[Heard] = []
    with heard(told.append, instead=instead):
        for act in acts:
            act()
    return [(one.library, one.text) for one in told]


def library(name, code, tmp_path):
    """A function of a library that is installed in a ``site-packages``; code sees ``warnings`` and ``logging``."""
    file = tmp_path / "site-packages" / name / "module.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(code)
    return lambda: exec(compile(code, str(file), "exec"), {"__name__": f"{name}.module"})


def test_each_entry_has_a_reason_and_a_text_that_names_one_warning():
    for one in TABLE:
        assert len(one.why.split()) > 5
        assert re.match(one.text, "Something that nobody foresaw") is None


@pytest.mark.parametrize("category", ["UserWarning", "FutureWarning", "RuntimeWarning"])
def test_a_warning_is_told_with_its_library(tmp_path, category):
    act = library("torch", f"import warnings\nwarnings.warn('planted', {category})", tmp_path)
    assert said(act) == [("torch", f"{category}: planted")]


def test_one_of_the_table_is_not(tmp_path):
    texts = ["Using Rank-Stabilized LoRA with rank_pattern/alpha_pattern, which", "Another of PEFT's"]
    acts = [library("peft", f"import warnings\nwarnings.warn({text!r})", tmp_path) for text in texts]
    assert said(*acts) == [("peft", "UserWarning: Another of PEFT's")]
    loggers = {one.logger: one for one in TABLE if one.logger}
    for logger in map(logging.getLogger, loggers):
        assert said(partial(logger.warning, "Another")) == [("bitsandbytes", "Another")]
    quiet = logging.getLogger("bitsandbytes.autograd._functions")
    assert said(lambda: quiet.warning("MatMul8bitLt: inputs will be cast from %s to float16", "float32")) == []


def test_to_silence_twice_adds_nothing():
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    before = list(logger.filters)
    library_warnings.silence()
    assert logger.filters == before


@pytest.mark.parametrize("name", ["transformers", "datasets", "optuna", "mlflow", "trl", "some_other"])
def test_a_logged_one_is_told_once_whether_or_not_the_library_passes_it_on(name):
    logger = logging.getLogger(f"{name}.part")
    said_once = said(
        lambda: logger.warning("%d of 9", 1), lambda: logger.warning("%d of 9", 2), lambda: logger.info("x")
    )
    assert said_once == [(name, "1 of 9")]


def test_what_lowrung_and_hydra_log_is_no_library_s():
    assert (
        said(lambda: logging.getLogger("lowrung.engine").warning("a"), lambda: logging.getLogger("hydra").error("b"))
        == []
    )


@pytest.mark.parametrize("instead", [True, False])
def test_others_print_it_too_unless_it_is_shown_instead(monkeypatch, tmp_path, instead):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: screen.write(str(message)))  # pytest has its own
    logger, handler = logging.getLogger(f"planted{instead}"), logging.StreamHandler()
    logger.propagate = False
    logger.addHandler(handler)
    before = list(logger.handlers)
    warn = library("peft", "import warnings\nwarnings.warn('by peft')", tmp_path)
    assert len(said(lambda: logger.warning("by planted"), warn, instead=instead)) == 2
    assert ("by planted" in screen.getvalue(), "by peft" in screen.getvalue()) == (not instead, not instead)
    assert set(logger.handlers) == set(before)
    logger.warning("again")
    assert "again" in screen.getvalue()


def test_what_a_library_adds_when_it_is_imported_is_silent_too_and_a_log_has_all_of_it(monkeypatch, tmp_path):
    screen, file = io.StringIO(), logging.FileHandler(tmp_path / "train.log")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(logging.root, "handlers", [file])
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)

    def imported():
        logger.addHandler(logging.StreamHandler())
        logger.propagate = False
        logging.getLogger("transformers.modeling").warning("by transformers")

    warn = library("peft", f"import warnings\nwarnings.warn({'by peft ' * 99!r})", tmp_path)
    assert [name for name, _ in said(imported, warn)] == ["transformers", "peft"]
    assert screen.getvalue() == ""
    log = (tmp_path / "train.log").read_text()
    assert "transformers.modeling: by transformers" in log
    assert "by peft " * 99 in log
    logger.warning("after it")
    assert screen.getvalue() == "after it\n"


def test_an_error_inside_puts_everything_back():
    before = (warnings.showwarning, list(logging.root.handlers))
    with pytest.raises(KeyError), heard(print):
        raise KeyError
    assert (warnings.showwarning, logging.root.handlers) == before


def test_a_long_one_is_one_line():
    [(_, text)] = said(lambda: logging.getLogger("peft").warning("keys:\n" + "model.layer " * 999))
    assert len(text) == library_warnings.LONGEST
    assert text.startswith("keys: model.layer")
    assert text.endswith(" ...")


def test_numbers_make_no_other_kind():
    assert Heard("torch", "at 0x7f1a, 3 of 4.5").kind == Heard("torch", "at 0x99, 12 of 0.1").kind
    assert Heard("torch", "a").kind != Heard("peft", "a").kind
