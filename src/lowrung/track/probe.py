"""Asks a registered model the way that its users load it; run as a script, in a process of its own.

What MLflow loads must work by itself, so nothing of lowrung is imported here, nor torch, which comes with the model.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow import pyfunc


def main(model: str, question: Path, answer: Path) -> None:
    """Loads a model and writes down what it says.

    Args:
        model: its address, ``models:/NAME/VERSION``.
        question: a JSON file with ``prompts``; ``new_tokens``, the most of an answer; and ``rows``, lists of token ids.
        answer: where ``answers`` to the prompts and ``logits`` after the rows go, as JSON.
    """
    asked = json.loads(question.read_text(encoding="utf-8"))
    loaded = pyfunc.load_model(model)
    answers = loaded.predict(asked["prompts"], params={"new_tokens": asked["new_tokens"]})
    logits = [_next_logits(loaded.get_raw_model(), row) for row in asked["rows"]]
    answer.write_text(json.dumps({"answers": list(answers), "logits": logits}), encoding="utf-8")


def _next_logits(model: Any, row: Sequence[int]) -> list[float]:
    """What a causal language model of transformers says of the token after a row, over the vocabulary."""
    whole_number = next(model.parameters()).new_zeros(()).long()  # on the model's device
    logits: list[float] = model(input_ids=whole_number.new_tensor([row])).logits[0, -1].float().tolist()
    return logits


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
