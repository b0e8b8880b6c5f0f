"""Numbers and rows as text."""

import textwrap
from collections.abc import Collection, Sequence

from lowrung.report import screen

GAP = "  "
"""What stands between two columns."""


def number(value: float) -> str:
    """A metric in six digits; a count, such as bytes or parameters, whole."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


def counted(count: int, name: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {name}" + ("" if count == 1 else "s")


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str], width: int | None = None
) -> str:
    """A table as text, as wide as it needs to be where there is room. Nothing of it is ever cut.

    Where room is short, cells go on in further lines, at their spaces; where even that is too wide, each row becomes a
    block with a line for each column.

    Args:
        head: the columns' titles.
        rows: as many cells each.
        left: the titles of the columns that stand flush left; the others stand flush right.
        width: of the screen, in columns; None is that of the terminal, where there is one.
    """
    width = width or screen.width()
    sides = ["<" if title in left else ">" for title in head]
    lines = [[screen.printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if width is not None and _total(widths) > width:
        squeezed = _squeezed(lines, widths, width)
        if squeezed is None:
            return _blocks(lines[0], lines[1:], width)
        widths = squeezed
        lines = [line for row in lines for line in _folded(row, widths)]
    padded = (GAP.join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in lines)
    return "\n".join(line.rstrip() for line in padded)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _squeezed(lines: Sequence[Sequence[str]], widths: Sequence[int], width: int) -> list[int] | None:
    """The columns' widths that fit, the widest made narrower first; None where words would have to be broken."""
    least = [max(_longest_word(cell) for cell in column) for column in zip(*lines, strict=True)]
    if _total(least) > width:
        return None
    found = list(widths)
    for _ in range(_total(widths) - width):
        widest = max((column for column in range(len(found)) if found[column] > least[column]), key=found.__getitem__)
        found[widest] -= 1
    return found


def _longest_word(cell: str) -> int:
    return max((len(word) for word in cell.split()), default=0)


def _folded(row: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """A row's lines."""
    cells = [_lines(cell, width) for cell, width in zip(row, widths, strict=True)]
    return [[cell[line] if line < len(cell) else "" for cell in cells] for line in range(max(map(len, cells)))]


def _lines(text: str, width: int) -> list[str]:
    """A text in lines; a word that is longer stays whole: whoever copies a path needs all of it."""
    return textwrap.wrap(text, max(width, 1), break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Each row as lines of a title and a cell; a cell without a title, or without room beside it, has its own line."""
    longest = max(map(len, head))
    blocks = []
    for row in rows:
        lines = []
        for title, cell in zip(head, row, strict=True):
            first, *more = _lines(cell, width - longest - len(GAP))
            lines += [f"{title:<{longest}}{GAP}{first}"] + [" " * longest + GAP + line for line in more] if cell else []
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
