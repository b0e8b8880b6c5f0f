"""What libraries warn of: each kind is shown once, with the run that it came from and the file that has all of it."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from lowrung import library_warnings
from lowrung.library_warnings import Heard
from lowrung.store import mailbox
from lowrung.store.layout import RunFolder

MOST = 10
"""Kinds of warnings that are shown; a library that words each warning anew would fill the screen."""


class Warnings:
    """Shows them.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._kinds: set[str] = set()

    def of_this_process(self) -> AbstractContextManager[None]:
        """Shows what libraries of this process warn of in the block, in place of what they would print."""
        return library_warnings.heard(lambda one: self._show(one, "", library_warnings.log_file()), instead=True)

    def of_run(self, title: str, folder: RunFolder) -> None:
        """Shows what libraries warned of in a run that has ended, where no other run had it before."""
        for record in mailbox.warnings(folder.path):
            self._show(Heard(record["library"], record["text"]), f", from {title}", str(folder.log))

    def _show(self, one: Heard, whose: str, log: str | None) -> None:
        if one.kind in self._kinds:
            return
        self._kinds.add(one.kind)
        read = f" (said once; read {log})" if log else ""
        if len(self._kinds) <= MOST:
            self._say(f"warning of {one.library}{whose}: {one.text}{read}")
        elif len(self._kinds) == MOST + 1:
            self._say(f"warning: libraries warn of more{whose}, which is not shown{read}")
