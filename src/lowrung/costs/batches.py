"""How many tokens a run's batches have, by the lengths of its rows."""

import math

from lowrung.costs.sizes import RowSizes
from lowrung.costs.terms import Asked


def batch_tokens(asked: Asked) -> float:
    """Tokens of the largest of a run's batches in one rank: on a CPU its rows are joined, elsewhere they are padded.

    The sum of n rows has n times their variance; of m such sums the largest is about sqrt(2 ln m) deviations above the
    mean.
    """
    rows, train = asked.rows, asked.train
    count = max(1.0, train.batch_size / train.rank_count)
    if train.packing:
        return count * packed_length(asked)
    if is_padded(asked):
        return count * rows.longest_of(max(1, round(count * draws(asked))))
    spread = math.sqrt(max(0.0, _mean_square(rows) - rows.mean_tokens**2) * count)
    largest = count * rows.mean_tokens + spread * math.sqrt(2 * math.log(max(1, draws(asked))))
    return min(largest, count * rows.tokens[-1])


def draws(asked: Asked) -> int:
    """Batches that a run goes through, at most those of one pass over its rows: the same come again."""
    drawn = asked.steps * asked.train.gradient_accumulation_steps
    return max(1, min(drawn, math.ceil(asked.rows.rows / asked.train.batch_size)))


def packed_length(asked: Asked) -> float:
    """Tokens of a packed row: the most that it may have, where there are enough rows to fill it."""
    rows = asked.rows
    return min(asked.max_length or rows.tokens[-1], rows.rows * rows.mean_tokens)


def pair_length(asked: Asked) -> float:
    """Tokens that a token is compared with: those of its own row, longer rows having more of the tokens."""
    if is_padded(asked) and not asked.train.packing:
        return asked.rows.longest_of(max(1, round(asked.train.batch_size / asked.train.rank_count)))
    return _mean_square(asked.rows) / max(asked.rows.mean_tokens, 1)


def is_padded(asked: Asked) -> bool:
    """Whether rows of unequal lengths are padded to the longest; see `lowrung.finetune.models.attention.joins`."""
    kind = asked.model.attn_implementation or "sdpa"
    return not (kind.startswith("flash") or (kind == "sdpa" and asked.device == "cpu"))


def _mean_square(rows: RowSizes) -> float:
    squares = [tokens**2 for tokens in rows.tokens]
    return (sum(squares) - (squares[0] + squares[-1]) / 2) / (len(squares) - 1)
