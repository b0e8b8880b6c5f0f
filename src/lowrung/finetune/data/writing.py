"""Examples written down one after the other: as rows of tokens, or as bad rows, with what is to be said of all."""

from collections import Counter
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from lowrung.finetune.data import lost, tokens
from lowrung.finetune.data.bad_rows import BadRow, RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import CLOCK, Template, Turn
from lowrung.finetune.data.tokens import Tokens

CHUNK = 1024
"""How many examples are turned into tokens at once."""


class Writer:
    """Writes examples down, and counts what the user should know.

    Attributes:
        tokenizer: the model's.
        template: its chat template; None where prompts and completions are written plainly.
        max_length: tokens after which a row is cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template | None, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self._written = 0
        self._noted: Counter[str] = Counter()
        self._remedies: dict[str, str | None] = {}
        self._unknown = getattr(tokenizer, "unk_token_id", None)
        self._asks_for_date = False

    def rows(self, examples: Sequence[Example]) -> tuple[list[Tokens], list[BadRow]]:
        """All examples as tokens, uncut, and those that cannot be learnt."""
        rows: list[Tokens] = []
        bad: list[BadRow] = []
        for start in range(0, len(examples), CHUNK):
            filled: list[tuple[Example, Sequence[Turn]]] = []
            for example in examples[start : start + CHUNK]:
                try:
                    filled.append((example, self._fill(example)))
                except RowError as error:
                    bad.append(BadRow(example.shown, str(error)))
            ids = self._ids([turn for _, turns in filled for turn in turns])
            for example, turns in filled:
                try:
                    rows += self._write(example, turns, ids)
                except RowError as error:
                    bad.append(BadRow(example.shown, str(error)))
        return rows, bad

    def notes(self) -> Iterator[str]:
        """What was noticed, each with the number of examples."""
        for what, count in self._noted.items():
            yield f"{count} of {self._written} examples: {what}"
        if self.template and self._asks_for_date:
            yield f"the chat template asks for the date: in all examples it is data.date={self.template.date}"

    def _fill(self, example: Example) -> Sequence[Turn]:
        """The chat template's text of each answer, with all that was written in it; none without a template."""
        if self.template is None or not example.messages:
            return ()
        turns = list(self.template.turns(example))
        lost.refuse_lost_answers(example, turns, self.template)
        return turns

    def _ids(self, turns: Sequence[Turn]) -> dict[str, list[int]]:
        """The tokens of all texts at once: this is three times as fast as one by one."""
        texts = list(dict.fromkeys(text for turn in turns for text in (turn.asked, turn.answered)))
        if not texts:
            return {}
        return dict(zip(texts, self.tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))

    def _write(self, example: Example, turns: Sequence[Turn], ids: dict[str, list[int]]) -> list[Tokens]:
        rows = tokens.of_turns(turns, ids.__getitem__) if turns else tokens.tokenise(example, self.tokenizer)
        for row in rows:
            if not row.cut(self.max_length).learnt:
                raise RowError(
                    f"data.max_length must leave room for what is learnt, but is {self.max_length}, and the prompt"
                    f" takes {len(row.input_ids) - row.learnt} tokens. Raise it, or leave that example out"
                )
        self._written += 1
        self._noted.update(dict.fromkeys(self._remarks(example, turns, rows), 1))
        return rows

    def _remarks(self, example: Example, turns: Sequence[Turn], rows: Sequence[Tokens]) -> Iterator[str]:
        """What is to be said of an example, in words that are the same for all of its kind."""
        if self.template and turns:
            yield from self._of_template(example, turns, self.template)
        elif example.tools:
            yield "tools are not written without a chat template"
        if len(rows) > 1:
            yield (
                "each answer became a row of its own, since the chat template writes earlier answers otherwise once"
                " another follows"
            )
        begin = getattr(self.tokenizer, "bos_token", None)
        if begin and example.text.startswith(begin) and rows[0].input_ids[:1] == [self.tokenizer.bos_token_id]:
            yield f"the text begins with {begin}, which the tokenizer adds: there is one of them"
        if self._unknown is not None and any(self._unknown in row.input_ids for row in rows):
            yield f"some characters are not known to the tokenizer, and became {self.tokenizer.unk_token}"

    def _of_template(self, example: Example, turns: Sequence[Turn], template: Template) -> Iterator[str]:
        if left_out := lost.of_context(example, turns[-1].answered):
            for what in left_out:
                if what not in self._remedies:
                    self._remedies[what] = lost.keeping(example, template, what)
            settings = ((what, self._remedies[what]) for what in left_out)
            named = (f"{what} ({setting} keeps it)" if setting else what for what, setting in settings)
            yield f"the chat template leaves out {'; '.join(named)}"
        if any(not turn.answered.startswith(turn.asked) for turn in turns if turn.position):
            yield "the chat template opens an answer otherwise than it writes one, and what it writes is learnt"
        if not self._asks_for_date and CLOCK in template.source(example.tools):
            self._asks_for_date = template.asks_for_the_date(example)
