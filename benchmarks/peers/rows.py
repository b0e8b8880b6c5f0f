"""``python -m benchmarks.peers.rows TASK FOLDER``: writes the rows as every way reads them.

lowrung draws the order of a file's rows by ``data.seed``. So the others are given the rows in the order that lowrung
has them in, as chats, which TRL writes down by the same chat template.
"""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.task import HELD_OUT, ORDERED, SOURCE, Task
from lowrung.config.schema import DataConf, ModelConf
from lowrung.finetune.data import corpus
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.prepared import Prepared, prepare
from lowrung.finetune.models import pretrained


def main(arguments: Sequence[str]) -> None:
    """Builds the model where it is not in the cache yet, and writes the rows and `facts.json`."""
    task, folder = Task.read(Path(arguments[0])), Path(arguments[1])
    drawn = DataConf(task.data, train_size=task.train_rows, eval_size=task.held_out_rows, max_length=task.max_length)
    examples = corpus.load(drawn)
    write(folder / SOURCE, examples.train)
    write(folder / HELD_OUT, examples.eval)
    model = pretrained.folder_of(ModelConf(f"embedded:{task.model}"))
    started = time.process_time()
    ordered, _ = tokens(task, folder, folder / "tokens")
    facts = {"model": str(model), "tokenising_seconds": time.process_time() - started}
    (folder / ORDERED).mkdir()
    write(folder / ORDERED / "train.jsonl", ordered.train)
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def tokens(task: Task, folder: Path, scratch: Path) -> tuple[corpus.Corpus, Prepared]:
    """The files as lowrung reads them, and the tokens that it makes of them."""
    data = DataConf(
        "file", path=str(folder / SOURCE), eval_path=str(folder / HELD_OUT), max_length=task.max_length, seed=0
    )
    examples = corpus.load(data)
    return examples, prepare(examples, pretrained.tokenizer_of(ModelConf(f"embedded:{task.model}")), data, scratch)


def write(path: Path, examples: Iterable[Example]) -> None:
    """Writes questions and answers as JSON lines, in the form that TRL takes for chats."""
    lines: list[dict[str, Any]] = [
        {"prompt": list(example.messages[:-1]), "completion": list(example.messages[-1:])} for example in examples
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
