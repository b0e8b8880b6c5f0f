"""The model of a run's time: what is computed, part by part, each by one formula, and the seconds beside that.

Operations are counted on the run's own model without its weights (`lowrung.finetune.sizes`), and are divided by a speed
(`lowrung.costs.prediction`); the constants were fitted to the runs of docs/plan.md, on a CPU, and where it says so to
steps on a GPU.
"""

import math

from lowrung.costs.batches import is_padded, packed_length, pair_length
from lowrung.costs.memory_formulas import held_bytes
from lowrung.costs.sizes import RowSizes
from lowrung.costs.terms import Asked, Work

SHARE = 0.6
"""Of the speed at which large matrices are multiplied, how much a pass reaches: products of 500 tokens' states, and
what is no product (norms, activations, rotations)."""

HEAD_SHARE = 0.6
"""The same of the head with the loss, or the argmax, over its logits."""

PASS_SECONDS = 0.005
"""While a pass over a model starts its many small operations, on a CPU; the way back counts as two passes."""

LAUNCH_SECONDS = 0.0017
"""The same on a GPU for each block, and for what is around them as for four: the card waits while Python tells it what
to compute. Steps of 512 tokens took 0.13 and 0.19 s on two hosts of H200s with 24 blocks, and 0.23 with 32."""

TOKEN_SECONDS = 0.001
"""While a token is generated, the same in each block, and the cache grows; SmolLM2-135M, of 30 blocks, takes 0.03."""

PARAMETER = 300
"""Operations that could be done while a trained parameter is clipped and updated: 12 bytes are read, 12 written."""


def work(asked: Asked) -> Work:
    """The operations of a run, by part, and the seconds beside them."""
    train, again = asked.train, int(asked.train.gradient_checkpointing)
    evaluations = -(-asked.steps // train.eval_steps)
    scoring = scoring_work(asked) / train.rank_count  # each rank scores a part of the rows
    batches = math.ceil(asked.held_out.rows / train.eval_batch_size / train.rank_count)
    tokens = math.ceil(asked.answered / train.eval_batch_size) * asked.held_out.labelled[-1]
    return Work(
        steps=asked.steps * step_work(asked),
        evaluations=evaluations * scoring + answering_work(asked, tokens),
        gate=gate_work(asked) if asked.verify.enabled else 0.0,
        base=0.0 if asked.is_base_kept else scoring,
        step_seconds=asked.steps * train.gradient_accumulation_steps * (3 + again) * pass_seconds(asked),
        evaluation_seconds=evaluations * batches * pass_seconds(asked) + tokens * token_seconds(asked),
        gate_seconds=gate_seconds(asked) if asked.verify.enabled else 0.0,
    )


def pass_seconds(asked: Asked) -> float:
    """Of a pass, beside its operations."""
    return LAUNCH_SECONDS * (4 + asked.base.layers) if asked.device == "cuda" else PASS_SECONDS


def step_work(asked: Asked) -> float:
    """Of an optimiser step: its forward and backward passes, the head's, and the update."""
    train, sizes, rows = asked.train, asked.trained, asked.rows
    batch = train.batch_size / train.rank_count
    if train.packing:
        tokens = batch * packed_length(asked)
    else:
        tokens = batch * (rows.longest_of(max(1, round(batch))) if is_padded(asked) else rows.mean_tokens)
    length = pair_length(asked)
    forward = tokens * (sizes.flops_per_token + sizes.flops_per_pair * length) + sizes.flops_fixed
    backward = tokens * (sizes.backward_flops_per_token + sizes.backward_flops_per_pair * length)
    backward += sizes.backward_flops_fixed
    again = 1 if train.gradient_checkpointing else 0
    labelled = tokens * rows.mean_labelled / max(rows.mean_tokens, 1)
    head = (3 if asked.lora.is_full or asked.lora.modules_to_save else 2) * head_work(asked, labelled)
    products = (forward * (1 + again) + backward) / SHARE + head / HEAD_SHARE
    products += (1 + again) * norm_work(asked)
    return train.gradient_accumulation_steps * products + PARAMETER * sizes.trainable


def norm_work(asked: Asked) -> float:
    """Of DoRA's norms of all adapted weights, once for each forward pass."""
    return WEIGHT_NORM * asked.base.quantizable if asked.lora.use_dora and not asked.lora.is_full else 0.0


def head_work(asked: Asked, labelled: float) -> float:
    """Of so many tokens' logits."""
    return 2 * labelled * asked.base.width * asked.base.vocabulary


def scoring_work(asked: Asked) -> float:
    """Of the held-out rows, scored once."""
    rows = asked.held_out
    passes = math.ceil(rows.rows / asked.train.eval_batch_size)
    return rows.rows * row_work(asked, rows) + passes * (asked.trained.flops_fixed / SHARE + norm_work(asked))


def row_work(asked: Asked, rows: RowSizes) -> float:
    """Of a row's forward pass, with the head at its labelled tokens."""
    sizes, length = asked.trained, rows.mean_tokens
    body = length * (sizes.flops_per_token + sizes.flops_per_pair * length)
    return body / SHARE + head_work(asked, rows.mean_labelled) / HEAD_SHARE


def prompts_work(asked: Asked) -> float:
    """Of a forward pass over the gate's rows."""
    return asked.verify.prompts * row_work(asked, asked.held_out)


TOKEN = 40
"""Operations that could be done while a weight is read, once for each token that is generated: memory sets the pace."""

WEIGHT_NORM = 1100
"""The same while DoRA takes the norm of a weight's column, in each pass: 11 ns."""

GATE_SECONDS = 1.6
"""While the gate's configs and adapters are read, and memory is given back."""

WORD_SECONDS = 50e-6
"""While a word of the vocabulary is read, in each of the tokenizers that are compared."""

MOVED_SECONDS = 5e-9
"""While a weight is merged, saved in both precisions, and read again three times."""

COMPARED_SECONDS = 15e-9
"""While a logit is compared, twice, in float64 on the CPU."""

QUANTIZED_SECONDS = 28e-9
"""While a weight is read and quantised."""


def gate_work(asked: Asked) -> float:
    """Of the gate: the rows are read by the adapter and by each merged model, and the adapter generates.

    Where all weights were trained, the saved model alone reads them.
    """
    verify, reading = asked.verify, prompts_work(asked)
    of_base = 0.0 if asked.is_base_kept else 1.5 * reading  # two of the rows with a branch, too
    forgetting = 2 * verify.forgetting * row_work(asked, asked.held_out)
    if asked.lora.is_full:
        return of_base + reading + forgetting
    models = 3 if verify.merge_dtype != "float32" else 2
    if asked.is_quantized:  # read as it was trained, on the dequantised base, and quantised once more
        models += 2
    return of_base + (models + 1) * reading + verify.new_tokens * TOKEN * asked.base.parameters + forgetting


def gate_seconds(asked: Asked) -> float:
    """Of the gate beside its operations: models are written and read again, tokenizers and logits are compared."""
    verify, base = asked.verify, asked.base
    compared = verify.prompts * asked.held_out.mean_labelled * base.vocabulary * COMPARED_SECONDS
    files = GATE_SECONDS + WORD_SECONDS * base.vocabulary + compared
    if asked.lora.is_full:
        return files / 2 + MOVED_SECONDS / 3 * base.parameters
    quantized = 3 * QUANTIZED_SECONDS * base.quantizable if asked.is_quantized else 0.0
    return files + MOVED_SECONDS * base.parameters + quantized + verify.new_tokens * token_seconds(asked)


def token_seconds(asked: Asked) -> float:
    """Beside the operations of a token that is generated."""
    return TOKEN_SECONDS * (1 + asked.base.layers)


def answering_work(asked: Asked, tokens: int) -> float:
    """Of the held-out rows' answers, which ``data.metrics`` score, by all tokens of all batches."""
    return tokens * TOKEN * asked.base.parameters + asked.answered * row_work(asked, asked.held_out)


START_SECONDS = 1.4
"""Before a run's first step and after its last: trainer, tokenizer, files."""

READ_SECONDS = 5e-9
"""For each byte of weights that is read."""


def start_seconds(asked: Asked) -> float:
    """Seconds of a run beside its passes: the base is read, what was trained is written."""
    written = asked.trained.trainable_bytes * (1 + 3 * (asked.train.save_steps != 0))
    quantized = asked.base.quantizable if asked.is_quantized else 0
    return START_SECONDS + READ_SECONDS * held_bytes(asked) + QUANTIZED_SECONDS * quantized + 2e-9 * written
