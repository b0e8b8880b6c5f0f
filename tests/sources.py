"""Sources of examples for tests, with the fields that a config would fill in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lowrung.config.schema import SourceConf
from lowrung.finetune.data import corpus


def source(**changed: Any) -> dict[str, Any]:
    """The fields of a `SourceConf`."""
    return dataclasses.asdict(SourceConf(**{"name": "file", **changed}))


def load(**changed: Any) -> corpus.Corpus:
    """`data.load` with a config's defaults."""
    sizes = {"train_size": None, "eval_size": 2, "seed": 0}
    return corpus.load(**{**source(), **sizes, **changed})


def write_rows(file: Path, rows: list[Any]) -> str:
    """Writes JSON lines; returns the file's name as a user would type it."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def pairs(count: int, word: str = "row") -> list[dict[str, str]]:
    """Rows that differ."""
    return [{"prompt": f"{word} {n}?", "completion": f"answer {n}"} for n in range(count)]
