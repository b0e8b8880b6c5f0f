"""Numbers and rows as text."""

from collections.abc import Collection, Sequence


def number(value: float) -> str:
    """A metric in six digits; a count, such as bytes or parameters, whole."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.6g}"


def counted(count: int, name: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {name}" + ("" if count == 1 else "s")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[str]) -> str:
    """A table as text, as wide as it needs to be.

    Args:
        head: the columns' titles.
        rows: as many cells each.
        left: the titles of the columns that stand flush left; the others stand flush right.
    """
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    sides = ["<" if title in left else ">" for title in head]
    lines = ("  ".join(f"{c:{s}{w}}" for c, s, w in zip(row, sides, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)
