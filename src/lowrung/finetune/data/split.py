"""What is recorded of the data that a run uses. It imports nothing, since whoever tracks a run imports it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Split:
    """The training or the held-out examples of a task.

    Attributes:
        name: the dataset's name (``docstrings``).
        digest: a hash of the examples. MLflow keeps one input for each name and digest, so those of the two splits of a
            dataset must differ.
        source: where the examples come from, in words or as an address.
        context: ``training`` or ``evaluation``.
        rows: the number of examples.
    """

    name: str
    digest: str
    source: str
    context: str
    rows: int
