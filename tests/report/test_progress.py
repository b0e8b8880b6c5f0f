import io

import pytest
from rich.console import Console

from lowrung.report.progress import Progress


def shown(*, is_terminal: bool) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    return Progress(Console(file=out, force_terminal=is_terminal, width=200, highlight=False, color_system=None)), out


def play(progress: Progress) -> None:
    """One trial from start to end."""
    with progress:
        progress.say("study s: 1 trials, 0 done before")
        progress.start("0", "trial 0 (lora.target_modules=[q_proj])", 2)
        progress.update("0", 0, {"eval/loss": 4.0})
        progress.update("0", 1, {"train/loss": 3.5})
        progress.update("0", 2, {"train/loss": 3.25, "eval/loss": 3.125})
        progress.end("0", "trial 0 (lora.target_modules=[q_proj])", "complete")


LINES = """\
study s: 1 trials, 0 done before
trial 0 (lora.target_modules=[q_proj]): started
trial 0 (lora.target_modules=[q_proj]): step 0/2, eval loss 4.000
trial 0 (lora.target_modules=[q_proj]): step 2/2, train loss 3.250, eval loss 3.125
trial 0 (lora.target_modules=[q_proj]): complete
"""


def test_without_a_terminal_there_are_plain_lines_one_an_evaluation():
    progress, out = shown(is_terminal=False)
    play(progress)
    assert out.getvalue() == LINES


def test_a_terminal_shows_a_bar_and_keeps_only_the_ends():
    progress, out = shown(is_terminal=True)
    with progress:
        progress.start("0", "trial 0 (t=[q_proj])", 4)
        progress.update("0", 2, {"train/loss": 3.5})
        progress._bars.refresh()
        bar = out.getvalue()
        progress.end("0", "trial 0 (t=[q_proj])", "complete in 1 s")
        assert progress._tasks == {}
    assert "trial 0 (t=[q_proj])" in bar
    assert "━" in bar
    assert "2/4" in bar
    assert "train loss 3.500" in bar
    assert "started" not in out.getvalue()
    assert "trial 0 (t=[q_proj]): complete in 1 s\n" in out.getvalue()


def test_after_the_last_step_the_bar_says_what_is_still_done():
    progress, out = shown(is_terminal=True)
    with progress:
        progress.start("0", "trial 0", 4)
        progress.update("0", 4, {"eval/loss": 3.5})
        progress._bars.refresh()
        assert "eval loss 3.500, then the merged-vs-adapter check" in out.getvalue()


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_trial_that_was_never_started_may_end(is_terminal):
    progress, out = shown(is_terminal=is_terminal)
    with progress:
        progress.end("3", "trial 3", "reused [/b]")
    assert "trial 3: reused [/b]" in out.getvalue()


def test_an_error_inside_takes_the_bars_down():
    progress, out = shown(is_terminal=True)
    progress.start("0", "trial 0", 4)
    with pytest.raises(KeyboardInterrupt), progress:
        raise KeyboardInterrupt
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_a_long_line_is_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    progress = Progress()
    progress.console.file = out
    progress.say("x" * 100)
    assert out.getvalue() == "x" * 100 + "\n"
