"""Asks a registered model the way that its users load it; run as a script, in a process of its own.

What MLflow loads must work by itself, so nothing of lowrung is imported here.
"""

import json
import sys
from pathlib import Path

from mlflow import pyfunc


def main(model: str, question: Path, answer: Path) -> None:
    """Loads a model and writes down what it answers.

    Args:
        model: its address, ``models:/NAME/VERSION``.
        question: a JSON file with ``prompts``, and ``new_tokens``, the most of an answer.
        answer: where the list of answers goes, as JSON.
    """
    asked = json.loads(question.read_text(encoding="utf-8"))
    answers = pyfunc.load_model(model).predict(asked["prompts"], params={"new_tokens": asked["new_tokens"]})
    answer.write_text(json.dumps(list(answers)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
