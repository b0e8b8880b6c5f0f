"""Where an answer ends, and where that is written down: generation_config.json beside an adapter or in a model."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

FILE = "generation_config.json"

TEXT = "end_text"
"""A key of lowrung's own in that file, which transformers keeps and does not use. Its ``stop_strings`` would make
`generate` fail wherever no tokenizer is given to it."""


@dataclasses.dataclass(frozen=True)
class Ends:
    """What ends an answer: whatever of this comes first.

    Attributes:
        tokens: ids, each of which ends an answer.
        text: a text that ends an answer, where a chat template ends turns with one that is no token; else empty.
    """

    tokens: tuple[int, ...] = ()
    text: str = ""

    def cut(self, ids: Sequence[int]) -> list[int]:
        """The generated tokens before the first one that ends an answer."""
        return list(ids[: next((at for at, id in enumerate(ids) if id in self.tokens), len(ids))])

    def answer(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
        """The text of what was generated, up to its end."""
        text = _decoded(tokenizer, self.cut(ids))
        return (text.partition(self.text)[0] if self.text else text).strip()

    def reference(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
        """The text of a row's own answer, up to the end that was written after it; it may hold others before."""
        cut = next((at for at in reversed(range(len(ids))) if ids[at] in self.tokens), len(ids))
        while cut and ids[cut - 1] in self.tokens:
            cut -= 1
        text = _decoded(tokenizer, ids[:cut])
        return (text.rpartition(self.text)[0] if self.text and self.text in text else text).strip()

    def reached(self, tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
        """Whether the end of each row is the text that ends an answer; ids of shape (rows, new tokens)."""
        window = len(self.text.encode()) + 1  # a token is a byte at least; the first may lose the space before it
        found = [self.text in str(tokenizer.decode(row[-window:])) for row in ids.tolist()]
        return torch.tensor(found, device=ids.device)

    def write(self, folder: Path) -> None:
        """Writes the ends into a folder's generation config; what else it says stays, valid or not."""
        file = folder / FILE
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        tokens: Any = list(self.tokens) if len(self.tokens) > 1 else next(iter(self.tokens), None)
        file.write_text(
            json.dumps({**known, "eos_token_id": tokens, TEXT: self.text}, indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def read(cls, folder: Path) -> "Ends | None":
        """What `write` left in a folder; None where nothing did."""
        try:
            known = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(known, dict) or not isinstance(known.get(TEXT), str):
            return None
        return cls(_ids(known.get("eos_token_id")), known[TEXT])


def listed(folder: Path) -> tuple[int, ...]:
    """The ids that end an answer by a model's generation config; by its config.json where it has none that is JSON.

    Raises:
        Exception: whatever transformers raises at values that it refuses; the model cannot be loaded then either.
    """
    try:
        config = GenerationConfig.from_pretrained(folder)
    except OSError:
        config = GenerationConfig.from_model_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    return _ids(config.eos_token_id)


def _ids(value: Any) -> tuple[int, ...]:
    """Ids, each once; nothing else that may stand in such a file."""
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(id for id in values if isinstance(id, int) and not isinstance(id, bool)))


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
