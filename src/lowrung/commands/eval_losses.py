"""The eval losses of adapters and of their base on the held-out examples of the adapters' runs."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lowrung.commands.names import Named
from lowrung.commands.run_inputs import held_out
from lowrung.report.tables import table

if TYPE_CHECKING:
    from lowrung.adapters.multi_adapter import MultiAdapter
    from lowrung.finetune.models.head import Row

BASE = "base"

Losses = Mapping[str, Mapping[str, float]]
"""In nats, by the name of the adapter or `BASE`, then by the name of the adapter whose run has the examples."""


def examples_of(parts: Sequence[Named]) -> "Mapping[str, Sequence[Row]]":
    """The held-out examples of adapters' runs, where they are there, by name; runs of the same data count once."""
    data: dict[str, Sequence[Row]] = {}
    for part in parts:
        rows = held_out(part.run) if part.run else ()
        if rows and not any(rows == known for known in data.values()):
            data[part.name] = rows
    return data


def eval_losses(adapters: "MultiAdapter", data: "Mapping[str, Sequence[Row]]") -> Losses:
    """The losses of the base and of each loaded adapter on examples; none where there are no examples."""
    from lowrung.finetune.gate.difference import mean_loss

    losses = {}
    for name in (None, *adapters.names) if data else ():
        adapters.switch(name)
        losses[name or BASE] = {whose: mean_loss(adapters.model, rows) for whose, rows in data.items()}
    return losses


def as_table(losses: Losses) -> str:
    """The losses as text, a column for each part's examples."""
    if not losses:
        return "not scored: no adapter is in a run whose held-out examples are still in the store"
    title = "eval loss on the data of" if len(losses[BASE]) > 1 else ""
    head = list(losses[BASE]) if title else ["eval loss"]
    rows = [[name, *(f"{loss:.4f}" for loss in on.values())] for name, on in losses.items()]
    return table([title, *head], rows, left=(title,))


def as_metrics(losses: Losses) -> dict[str, float]:
    """The losses by names that MLflow takes, a slash in an adapter's name being a dot.

    ``eval/loss/<adapter>``, with ``/on/<part>`` where the parts have different examples.
    """
    names = _metric_names(losses)
    is_one = len(losses[BASE]) == 1
    return {
        f"eval/loss/{names[name]}" + ("" if is_one else f"/on/{names[whose]}"): loss
        for name, on in losses.items()
        for whose, loss in on.items()
    }


def _metric_names(names: Iterable[str]) -> dict[str, str]:
    """Each name in letters that MLflow takes, told apart by numbers where two become the same."""
    words = {name: re.sub(r"[^\w.-]+", "_", name.strip("/").replace("/", ".")) for name in names}
    same = [word for word, count in Counter(words.values()).items() if count > 1]
    return {name: f"{n}_{word}" if word in same else word for n, (name, word) in enumerate(words.items())}
