import io
import re

import pyte
import pytest
from rich.console import Console

from lowrung.report.progress import Progress


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


class Screen(pyte.Screen):
    """What a terminal shows after it was sent a text; it is higher than any text here, so that nothing scrolls away."""

    def __init__(self, sent, width):
        super().__init__(width, 100)
        self.set_mode(pyte.modes.LNM)  # a line feed starts a new line, as the terminals' driver has it
        pyte.Stream(self).feed(sent)

    @property
    def rows(self):
        """The lines down to the cursor."""
        return [line.rstrip() for line in self.display[: self.cursor.y + 1]]

    @property
    def text(self):
        return "\n".join(self.rows).rstrip("\n")


class Terminal(io.StringIO):
    """The far end of a console that thinks it is on a terminal."""

    def __init__(self, width=200):
        super().__init__()
        self.width = width
        self.console = Console(
            file=self, force_terminal=True, width=width, height=25, highlight=False, color_system=None, _environ={}
        )

    @property
    def screen(self):
        return Screen(self.getvalue(), self.width)


def on_terminal(width=200):
    terminal, clock = Terminal(width), Clock()
    return Progress(terminal.console, clock), terminal, clock


def in_log():
    out, clock = io.StringIO(), Clock()
    return Progress(Console(file=out, force_terminal=False, width=200, highlight=False), clock), out, clock


def count(progress, done, *, total=40, pruned=0, failed=0, running=0, best=None):
    complete = done - pruned - failed
    progress.summary(total=total, complete=complete, pruned=pruned, failed=failed, running=running, best=best)


def run(progress, clock, number, seconds):
    """A trial from start to end."""
    progress.start(str(number), f"trial {number}", 4)
    clock.seconds += seconds
    progress.end(str(number), f"trial {number}", "complete")


def left(line):
    """The time left, as a line says it."""
    found = re.search(r", ([^,]+) left", line)
    return found[1] if found else None


# -- in a log ----------------------------------------------------------------------------------------------------------

LINES = """\
study s: 1 trials, 0 done before
trial 0 (lora.target_modules=[q_proj]): started
trial 0 (lora.target_modules=[q_proj]): step 0/4, eval loss 4.000
trial 0 (lora.target_modules=[q_proj]): step 2/4, train loss 3.250, eval loss 3.125
trial 0 (lora.target_modules=[q_proj]): complete
"""


def test_without_a_terminal_there_are_plain_lines_one_an_evaluation():
    progress, out, _ = in_log()
    with progress:
        progress.say("study s: 1 trials, 0 done before")
        progress.start("0", "trial 0 (lora.target_modules=[q_proj])", 4)
        progress.update("0", 0, {"eval/loss": 4.0})
        progress.update("0", 1, {"train/loss": 3.5})
        progress.update("0", 2, {"train/loss": 3.25, "eval/loss": 3.125})
        progress.update("0", 4, {"eval/loss": 3.0})  # comes again with the end
        progress.end("0", "trial 0 (lora.target_modules=[q_proj])", "complete")
        count(progress, 1, total=1, best="eval/loss 3.125")  # one trial needs no summary
    assert out.getvalue() == LINES


def test_the_base_s_loss_is_said_once_where_it_is_that_of_other_trials():
    progress, out, _ = in_log()
    for trial, loss in (("0", 4.0), ("1", 4.0), ("2", 5.0), ("3", 5.0)):
        progress.start(trial, trial, 4)
        progress.update(trial, 0, {"eval/loss": loss})
    assert [line for line in out.getvalue().splitlines() if "loss" in line] == [
        "0: step 0/4, eval loss 4.000",
        "2: step 0/4, eval loss 5.000",
    ]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines():
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, _environ={"TERM": "dumb"}), Clock()) as progress:
        progress.start("0", "trial 0", 2)
    assert out.getvalue() == "trial 0: started\n"


def test_a_log_has_a_summary_after_a_trial():
    progress, out, clock = in_log()
    run(progress, clock, 7, 100)
    count(progress, 12, pruned=3, failed=1, best="eval/loss 2.922 (trial 7: lora.r=16)")
    summary = "12 of 40 done, 3 pruned, 1 failed, best eval/loss 2.922 (trial 7: lora.r=16), 47 min left"
    assert out.getvalue().splitlines()[-1] == summary


def test_no_more_time_is_left_than_the_budget_has():
    progress, out, clock = in_log()
    run(progress, clock, 0, 100)
    progress.summary(total=40, complete=1, pruned=0, failed=0, running=0, best=None, seconds_left=130.0)
    assert left(out.getvalue().splitlines()[-1]) == "2 min"


def test_before_the_first_run_has_ended_the_plan_says_what_is_left():
    progress, out, clock = in_log()
    progress.start("0", "trial 0", 4, planned=90.0)
    count(progress, 2, total=5, running=1)
    assert out.getvalue() == "trial 0: started, 2 min by the plan\n2 of 5 done, 4 min left\n"
    clock.seconds += 30
    progress.end("0", "trial 0", "complete")
    count(progress, 3, total=5)
    clock.seconds += 60
    count(progress, 4, total=5)
    assert left(out.getvalue().splitlines()[-1]) == "30 s"  # what was measured counts alone


def test_a_summary_leaves_out_what_there_is_nothing_of():
    progress, out, _ = in_log()
    count(progress, 2)
    assert out.getvalue() == "2 of 40 done\n"


def test_a_log_has_a_summary_every_ten_seconds_at_most_and_the_last_one():
    progress, out, clock = in_log()
    for done, seconds in ((1, 0), (2, 9.9), (3, 0.1), (4, 9.9), (5, 0), (6, 0)):
        clock.seconds += seconds
        count(progress, done, total=6)
    assert out.getvalue() == "1 of 6 done\n3 of 6 done\n6 of 6 done\n"


# -- the time left -----------------------------------------------------------------------------------------------------


def test_no_time_is_told_before_a_trial_of_this_start_has_ended():
    progress, out, clock = in_log()
    clock.seconds += 500
    progress.end("0", "trial 0", "reused")
    progress.start("1", "trial 1", 4)
    clock.seconds += 500
    count(progress, 1, running=1)
    assert out.getvalue().splitlines()[-1] == "1 of 40 done"


def test_trials_one_after_the_other_take_their_mean_each():
    progress, out, clock = in_log()
    run(progress, clock, 1, 60)
    run(progress, clock, 2, 180)
    progress.end("0", "trial 0", "reused")
    count(progress, 3, total=8)
    assert left(out.getvalue()) == "10 min"


def test_trials_side_by_side_share_the_time():
    progress, out, clock = in_log()
    for key in "0123":
        progress.start(key, f"trial {key}", 4)
    clock.seconds += 600
    for done, key in enumerate("0123", start=1):
        progress.end(key, f"trial {key}", "complete")
        clock.seconds += 10  # so that each has its summary
        count(progress, done, total=12, running=4 - done)
    assert [left(line) for line in out.getvalue().splitlines() if " done" in line] == [
        "28 min",
        "25 min",
        "23 min",
        "20 min",
    ]


def test_a_trial_that_is_tried_again_is_one_trial():
    progress, out, clock = in_log()
    run(progress, clock, 0, 60)
    run(progress, clock, 0, 180)
    count(progress, 1, total=3)
    assert left(out.getvalue()) == "8 min"


def test_trials_that_the_caller_counts_as_running_share_the_time_too():
    progress, out, clock = in_log()
    run(progress, clock, 0, 600)
    count(progress, 1, total=9, running=4)
    assert left(out.getvalue()) == "20 min"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.4, "0 s"),
        (40, "40 s"),
        (59.6, "1 min"),
        (1500, "25 min"),
        (3599, "1 h"),
        (7800, "2 h 10 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_times_are_told_in_units_for_people(seconds, shown):
    progress, out, clock = in_log()
    run(progress, clock, 0, seconds)
    count(progress, 1, total=2)
    assert left(out.getvalue()) == shown


def test_the_last_summary_has_no_time_left():
    progress, out, clock = in_log()
    run(progress, clock, 0, 50)
    count(progress, 2, total=2)
    assert out.getvalue().splitlines()[-1] == "2 of 2 done"


# -- on a terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_summary_and_a_row_a_trial_below_the_lines():
    progress, terminal, clock = on_terminal(120)
    with progress:
        run(progress, clock, 0, 90)
        count(progress, 1, total=4, running=1, best="eval/loss 3.5 (trial 0: t=[q_proj])")
        progress.start("1", "trial 1 (t=[q_proj])", 4)
        progress.start("2", "trial 2 (t=[/b] :x:)", 20)
        progress.update("1", 1, {"eval/loss": 4.0})
        progress.update("1", 2, {"train/loss": 3.5})
        clock.seconds += 30
        progress.say("a line")
        bar = "━" * 15
        assert terminal.screen.text.splitlines() == [
            "trial 0: complete",
            "a line",
            "1 of 4 done, best eval/loss 3.5 (trial 0: t=[q_proj]), 4 min left",
            f"trial 1 (t=[q_proj])  {bar:30}  2/4   train loss 3.500  eval loss 4.000  30 s",
            f"trial 2 (t=[/b] :x:)  {'':30}  0/20                                     30 s",
        ]
    assert terminal.screen.text == "trial 0: complete\na line"


def test_the_time_left_counts_down_until_the_next_trial_ends():
    progress, terminal, clock = on_terminal()
    with progress:
        run(progress, clock, 0, 600)
        count(progress, 1, total=3)
        shown = []
        for seconds in (0, 300, 300, 600):
            clock.seconds += seconds
            progress.say("")
            shown.append(left(terminal.screen.text))
    assert shown == ["20 min", "15 min", "10 min", None]


def test_a_terminal_keeps_only_the_ends():
    progress, terminal, _ = on_terminal()
    with progress:
        progress.start("0", "trial 0 (t=[q_proj])", 4)
        progress.update("0", 2, {"train/loss": 3.5, "eval/loss": 3.5})
        count(progress, 2, total=2)
        progress.end("0", "trial 0 (t=[q_proj])", "complete in 1 s")
    assert terminal.screen.text == "trial 0 (t=[q_proj]): complete in 1 s"


def test_after_the_last_evaluation_the_row_says_what_is_still_done():
    progress, terminal, _ = on_terminal()
    with progress:
        progress.start("0", "trial 0", 4)
        progress.update("0", 4, {"train/loss": 3.75})
        progress.say("")
        before = terminal.screen.text
        progress.update("0", 4, {"eval/loss": 3.5})
        progress.update("0", 4, {"eval/token_accuracy": 0.5})
        progress.say("")
        after = terminal.screen.text
    check = "merged-vs-adapter check  4/4  train loss 3.750  eval loss 3.500"
    assert check not in before
    assert check in after


@pytest.mark.parametrize("width", [*range(1, 20), 40, 60, 80, 100, 119, 120, 160])
def test_a_narrow_terminal_has_one_line_for_each_row(width):
    progress, terminal, clock = on_terminal(width)
    with progress:
        run(progress, clock, 0, 4000)
        above = terminal.screen.text
        count(progress, 3, pruned=1, failed=1, best="eval/loss 2.922 (trial 7: lora.r=16)")
        for key in "12":
            progress.start(key, f"trial {key} (lora.target_modules=[q_proj,v_proj] train.learning_rate=0.0003)", 2000)
        progress.update("1", 1000, {"train/loss": 3.5, "eval/loss": 3.25})
        progress.update("2", 2000, {"train/loss": 3.5, "eval/loss": 3.25})
        progress.say("-")
        line, *rows = terminal.screen.rows[len(above.splitlines()) :]
        assert line == "-"
        assert len(rows) == 3
    assert terminal.screen.text == f"{above}\n-"


@pytest.mark.parametrize(
    ("width", "view"),
    [
        (
            80,
            [
                "1 of 2 done, best eval/loss 2.922 (trial 7: lora.target_modules=[q…, 25 min left",
                "trial 1 (lora.target…  ━━━━━       10/20  train loss 3.500  eval loss 3.250  0 s",
                "trial 2 (lora.target…  merged-vs…  20/20  train loss 3.500  eval loss 3.250  0 s",
            ],
        ),
        (
            50,
            [
                "1 of 2 done, best eval/loss 2.922 (t…, 25 min left",
                "trial 1 (lora.target…  10/20  eval loss 3.250  0 s",
                "trial 2 (lora.target…  20/20  eval loss 3.250  0 s",
            ],
        ),
    ],
)
def test_where_room_is_short_the_numbers_stay(width, view):
    progress, terminal, clock = on_terminal(width)
    with progress:
        run(progress, clock, 7, 1500)
        count(progress, 1, total=2, best="eval/loss 2.922 (trial 7: lora.target_modules=[q_proj,v_proj])")
        for key in "12":
            progress.start(key, f"trial {key} (lora.target_modules=[q_proj,v_proj])", 20)
        progress.update("1", 10, {"train/loss": 3.5, "eval/loss": 3.25})
        progress.update("2", 20, {"train/loss": 3.5, "eval/loss": 3.25})
        progress.say("-")
        assert terminal.screen.text.splitlines()[-3:] == view


def test_a_low_terminal_counts_the_trials_that_it_has_no_line_for():
    terminal = Terminal(80)
    terminal.console.size = (80, 10)
    with Progress(terminal.console, Clock()) as progress:
        for trial in range(16):
            progress.start(str(trial), f"trial {trial}", 4)
        count(progress, 3)
        assert progress._live is not None
        progress._live.refresh()
        rows = terminal.screen.rows
    assert len(rows) < 10
    assert rows[0] == "3 of 40 done"
    assert rows[1].startswith("trial 0 ")
    assert rows[-1] == f"and {16 - (len(rows) - 2)} more"


@pytest.mark.parametrize("trials", [3, 60])  # 60 are higher than the terminal
def test_an_error_inside_leaves_the_terminal_as_it_was(trials):
    progress, terminal, _ = on_terminal()

    def break_off():
        with progress:
            for number in range(trials):
                progress.start(str(number), f"trial {number}", 4)
            count(progress, 1)
            progress.say("the last line")
            assert terminal.screen.cursor.hidden
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert not terminal.screen.cursor.hidden
    assert terminal.screen.text == "the last line"
    progress.console.print("printed afterwards")
    assert terminal.screen.text == "the last line\nprinted afterwards"


# -- on both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [on_terminal, in_log])
def test_a_trial_that_was_never_started_may_end(make):
    progress, out, _ = make()
    with progress:
        progress.end("3", "trial 3", "reused [/b] :x:")
    assert "trial 3: reused [/b] :x:\n" in out.getvalue()


@pytest.mark.parametrize("make", [on_terminal, in_log])
def test_a_trial_that_has_ended_prints_nothing(make):
    progress, out, _ = make()
    with progress:
        progress.start("0", "trial 0", 4)
        progress.end("0", "trial 0", "failed")
        progress.update("0", 4, {"eval/loss": 3.5})
        progress.say("-")
        assert "3.5" not in out.getvalue()
        progress.start("1", "trial 1", 4)
    before = out.getvalue()
    progress.update("1", 4, {"eval/loss": 3.5})
    assert out.getvalue() == before


def test_a_long_line_is_not_broken(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    out = io.StringIO()
    progress = Progress()
    progress.console.file = out
    progress.say("x" * 100)
    assert out.getvalue() == "x" * 100 + "\n"


def test_a_trial_that_waits_in_a_queue():
    progress, out, _ = in_log()
    progress.start("0", "trial 0", 10, waits="")
    for reason in ("Priority", "Resources", "Priority", None, None):
        progress.waits("0", reason)
    progress.waits("of another", "Priority")
    assert out.getvalue().splitlines() == [
        "trial 0: submitted",
        "trial 0: waits in the queue (Priority)",
        "trial 0: waits in the queue (Resources)",
        "trial 0: started",
    ]


def test_a_row_that_waits_in_a_queue():
    progress, terminal, clock = on_terminal()
    with progress:
        progress.start("0", "trial 0", 10, waits="")
        progress.waits("0", "ReqNodeNotAvail, Reserved")
        clock.seconds += 600
        terminal.console.print(progress)
        assert re.search(r"trial 0 +ReqNodeNotAvail, Reserved +waits +10 min", terminal.screen.text)
        progress.waits("0", None)
        clock.seconds += 5
        terminal.console.print(progress)
    assert re.search(r"trial 0 .*0/10 .* 5 s", terminal.screen.text)
