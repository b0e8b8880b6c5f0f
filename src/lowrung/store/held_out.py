"""What a run scored on each held-out example: ``held_out.parquet``, the evidence that runs are compared by."""

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lowrung.store import atomic, records

_DATA = b"lowrung.data"

_ANSWER = "eval/"
"""What begins the column of an answer's score, as in MLflow: a score of the user's may be named ``tokens``, say."""


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Sums over the labelled tokens of each held-out example, and the scores of its answer.

    All arrays have the shape (examples,) and the examples' order in the data.

    Attributes:
        data: a hash of the held-out rows as tokens; only runs that share it can be compared example by example.
        tokens: the number of labelled tokens.
        nll: the sum of their negative log-likelihoods, in nats.
        right: how many of them were the most probable ones.
        answers: scores of the generated answer, by the metric's name without ``eval/``, such as ``exact_match``.
    """

    data: str
    tokens: np.ndarray
    nll: np.ndarray
    right: np.ndarray
    answers: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes one row an example, whole or not at all; pandas reads it: ``pandas.read_parquet(path)``."""
        table = pa.table(
            {
                "example": np.arange(len(self.tokens)),
                "tokens": self.tokens,
                "nll": self.nll,
                "right": self.right,
                **{f"{_ANSWER}{name}": scores for name, scores in self.answers.items()},
            }
        )
        buffer = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({_DATA: self.data.encode()}), buffer)
        atomic.write_bytes(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> "HeldOut":
        """Reads what `write` left.

        Raises:
            StoreError: when there is no such file, or it does not hold this.
        """
        try:
            with pq.ParquetFile(path) as file:  # `read_table` and `to_numpy` import pandas: 0.3 s of CPU time
                table = file.read()
            data = (table.schema.metadata or {})[_DATA].decode()
            columns = {name: np.from_dlpack(table[name].combine_chunks()) for name in table.column_names}
            answers = {name.removeprefix(_ANSWER): each for name, each in columns.items() if name.startswith(_ANSWER)}
            return cls(data, columns["tokens"], columns["nll"], columns["right"], answers)
        except (OSError, KeyError, pa.ArrowException) as error:
            raise records.unreadable(path, f"must hold a run's scores by example, but does not ({error})") from error
