"""A live view that leaves no rows behind when its terminal narrows, where it is known what the terminal does then."""

import os
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment


def breaks_lines() -> bool:
    """Whether the terminal breaks lines anew when it narrows. tmux does; of the others, some do and cannot be asked."""
    return bool(os.environ.get("TMUX"))


class LiveView(Live):
    """Draws a view anew, in place of the one before.

    Rich goes up as many lines as it has drawn. In a terminal that has narrowed since and has broken them, there are
    more.

    Args:
        view: what is drawn.
        console: where.
    """

    def __init__(self, view: RenderableType, console: Console) -> None:
        self._drawn = _Drawn(view)
        super().__init__(self._drawn, console=console, transient=True)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """See `rich.live.Live`: it adds what erases the last view and what draws the next one."""
        more = self._drawn.broken(self.console.width) if breaks_lines() else 0
        up = ((ControlType.CARRIAGE_RETURN,), (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        return [*[Control(*up)] * more, *super().process_renderables(renderables)]


class _Drawn:
    """A view that remembers how long its lines were."""

    def __init__(self, view: RenderableType) -> None:
        self._view = view
        self._lengths: list[int] = []

    def broken(self, width: int) -> int:
        """How many lines more there are in a terminal of this width."""
        return sum(max(length - 1, 0) // width for length in self._lengths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._view, options, pad=False)
        self._lengths = [Segment.get_line_length(line) for line in lines]
        yield from _joined(lines)


def _joined(lines: list[list[Segment]]) -> Iterator[Segment]:
    for line in lines:
        yield from line
        yield Segment.line()
