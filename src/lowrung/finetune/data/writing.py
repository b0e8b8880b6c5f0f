"""Examples written down one after the other: as rows of tokens, or as bad rows, with what is to be said of all."""

from collections import Counter
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from lowrung.finetune.data import lost, tokens
from lowrung.finetune.data.bad_rows import BadRow, RowError
from lowrung.finetune.data.examples import Example
from lowrung.finetune.data.template import CLOCK, Template, Turn
from lowrung.finetune.data.tokens import Tokens


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
        for example in examples:
            try:
                rows += self._write(example)
            except RowError as error:
                bad.append(BadRow(example.shown, str(error)))
        return rows, bad

    def notes(self) -> Iterator[str]:
        """What was noticed, each with the number of examples."""
        for what, count in self._noted.items():
            yield f"{count} of {self._written} examples: {what}"
        if self.template and self._asks_for_date:
            yield f"the chat template asks for the date: in all examples it is data.date={self.template.date}"

    def _write(self, example: Example) -> list[Tokens]:
        turns = list(self.template.turns(example)) if self.template and example.messages else []
        if self.template and turns:
            lost.refuse_lost_answers(example, turns, self.template)
            rows = tokens.of_turns(turns, self.tokenizer)
        else:
            rows = tokens.tokenise(example, self.tokenizer)
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
        for what in lost.of_context(example, turns[-1].answered):
            if what not in self._remedies:
                self._remedies[what] = lost.keeping(example, template, what)
            remedy = self._remedies[what]
            yield f"the chat template leaves out {what}" + (f" ({remedy} keeps them)" if remedy else "")
        if any(not turn.answered.startswith(turn.asked) for turn in turns if turn.position):
            yield "the chat template opens an answer otherwise than it writes one, and what it writes is learnt"
        if not self._asks_for_date and CLOCK in template.source(example.tools):
            self._asks_for_date = template.asks_for_the_date(example)
