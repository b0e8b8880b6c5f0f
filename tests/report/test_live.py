import io

import pytest
from rich.console import Console
from rich.text import Text

from lowrung.report.live import LiveView


@pytest.mark.parametrize(
    ("tmux", "width", "up"),
    [("/tmp/tmux-0/default,1,0", 40, 2 + 2 + 3), ("/tmp/tmux-0/default,1,0", 60, 2), ("", 40, 2), (None, 40, 2)],
)
def test_rows_that_a_narrower_terminal_has_broken_are_erased_where_that_is_known(monkeypatch, tmux, width, up):
    monkeypatch.delenv("TMUX", raising=False)
    if tmux is not None:
        monkeypatch.setenv("TMUX", tmux)
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=40, legacy_windows=False)
    live = LiveView(Text("\n".join(["a" * 120, "b" * 40, "c" * 121])), console)
    live.auto_refresh = False
    with live:
        console.width = width if width == 40 else 150
        sent = out.tell()
        live.refresh()
        assert out.getvalue()[sent:].count("\x1b[1A") == up
