"""Sources of examples for tests, with a config's defaults."""

import json
from pathlib import Path
from typing import Any

from lowrung.config.schema import DataConf, SourceConf
from lowrung.finetune.data import corpus


def source(**changed: Any) -> SourceConf:
    """A file, or another source."""
    return SourceConf(**{"name": "file", **changed})


def load(**changed: Any) -> corpus.Corpus:
    """The examples of a file, or of another task; two are held out."""
    return corpus.load(task(**changed))


def task(**changed: Any) -> DataConf:
    """A file, or another task; two examples are held out."""
    return DataConf(**{"name": "file", "eval_size": 2, "max_length": 256, **changed})


def write_rows(file: Path, rows: list[Any]) -> str:
    """Writes JSON lines; returns the file's name as a user would type it."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def pairs(count: int, word: str = "row") -> list[dict[str, str]]:
    """Rows that differ."""
    return [{"prompt": f"{word} {n}?", "completion": f"answer {n}"} for n in range(count)]
