"""The model of a run's memory: what is held, part by part, each by one formula.

Sources: the sizes are counted on the run's own model without its weights (`lowrung.finetune.sizes`); what is held when
follows from the code that holds it, which each formula names; the constants were fitted to the runs of docs/plan.md,
on a CPU. On a GPU the same formulas hold, without what only a CPU's memory has (libraries, mapped files, the heap); an
H200 took 0.95 to 1.04 of them in bfloat16. CUDA's own context is apart (`lowrung.engine.memory.CONTEXT`), as in
``memory/peak_bytes``.
"""

from lowrung.config.schema import TrainConf
from lowrung.costs.batches import batch_tokens, pair_length
from lowrung.costs.terms import Asked, Memory

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a number, by the precision's name."""

LIBRARIES = {"cpu": 590_000_000, "cuda": 2**26}
"""Bytes that Python and its libraries hold: a run's process is forked with 480 MB resident, and uses more of torch,
transformers and PEFT as it goes on. On a GPU only what torch allocates there is counted: two workspaces of cuBLAS, of
32 MiB each on an H200 (a model of 0.5 MB took 72 MB)."""

TRACKER = {"cpu": 115_000_000, "cuda": 0}
"""Bytes that MLflow holds beside them, where a single run's process sends to it."""

AROUND = {"cpu": 1.2, "cuda": 1.05}
"""What is held in training, over the activations and logits that are kept for the backward pass: the gradients of
activations, one layer's at a time, and pieces of the heap that are free but too small."""

AROUND_CHECKPOINTED = {"cpu": 4.0, "cuda": 1.1}
"""The same over activations where blocks are computed again. Little is kept then, and on a CPU most is pieces that one
block after the other leaves in glibc's heap: 2.9 and 6.3 times were measured."""

STATES = {
    "ademamix": 3,
    "grokadamw": 3,
    "adam": 2,
    "schedule_free_sgd": 1,
    "sgd": 0,
    "adagrad": 1,
    "rmsprop": 1,
    "lion": 1,
    "adafactor": 0.01,
    "lomo": 0,
}
"""Numbers that an optimiser keeps for each parameter, by a part of its name in transformers: the first that fits."""

LOGITS = 2
"""Copies of a labelled token's logits in training, in the head's precision: they and their gradient."""

SOFTMAX = {"cpu": 2**22, "cuda": 2**25}
"""Logits whose softmax is held beside them at once, in float32: `lowrung.finetune.models.score.PIECE`, which is not
imported, since what runs import is a part of their signatures, and a plan's constants should not be."""

KEPT_LOGITS = 3
"""Copies of the gate's logits: of what was trained, of the base, and of the adapter."""


def memory(asked: Asked) -> Memory:
    """The bytes of a run, by part and phase."""
    libraries, weights = library_bytes(asked), weight_bytes(asked)
    trained = asked.trained.trainable_bytes
    around, again = AROUND[asked.device], AROUND_CHECKPOINTED[asked.device]
    adapter = 0 if asked.lora.is_full else trained
    optimizer = trained * states(asked.train)
    return Memory(
        libraries=libraries,
        weights=weights,
        adapter=adapter,
        gradients=trained,
        optimizer=optimizer,
        activations=(again if asked.train.gradient_checkpointing else around) * activation_bytes(asked),
        logits=around * logit_bytes(asked),
        gate=gate_bytes(asked) if asked.verify.enabled else 0,
        loading=libraries + loading_bytes(asked),
        evaluation=libraries + weights + adapter + trained + optimizer + evaluation_bytes(asked),
    )


def library_bytes(asked: Asked) -> int:
    """What Python and its libraries hold."""
    return LIBRARIES[asked.device] + asked.is_tracking * TRACKER[asked.device]


def weight_bytes(asked: Asked) -> float:
    """The base's weights while it is trained, in each of several ranks.

    On a CPU the file of a quantised base stays mapped beside them, for the embedding that is not quantised and lies in
    it; and the copies in full that were quantised one after the other stay in the heap, in pieces. FSDP divides the
    weights among the ranks.
    """
    shards = asked.train.rank_count if asked.train.parallel == "fsdp" else 1
    return (held_bytes(asked) + _beside_quantized(asked)) / shards


def held_bytes(asked: Asked) -> float:
    """With nf4, four bits a weight, and a constant for 64 of them: 32 bits, or 8 bits where it is quantised too."""
    held = BYTES[asked.dtype]
    bits = {"none": 8 * held, "int8": 8, "nf4": 4.127 if asked.model.double_quantization else 4.5}
    return _in_full(asked) + asked.base.quantizable * bits[asked.model.quantization] / 8


def _in_full(asked: Asked) -> float:
    """The bytes of the weights that no quantisation holds in fewer bits."""
    return (asked.base.parameters - asked.base.quantizable) * full_bytes(asked)


def full_bytes(asked: Asked) -> int:
    """Of a number that is not quantised: PEFT puts what is beside quantised weights in float32, the head too."""
    return 4 if asked.is_quantized else BYTES[asked.dtype]


def _mapped_beside(asked: Asked) -> float:
    """Pages of a quantised base's file that no weight lies in any more; a GPU has none."""
    if asked.device != "cpu":
        return 0.0
    left = _in_full(asked) if asked.dtype == "float32" else 0.0  # else what is not quantised was put in float32
    return max(0.0, asked.base.stored_bytes - left)


def _beside_quantized(asked: Asked) -> float:
    if not asked.is_quantized or asked.device != "cpu":
        return 0.0
    return _mapped_beside(asked) + asked.base.quantizable * BYTES[asked.dtype]


def _mapped_as(asked: Asked, held: float) -> float:
    """Bytes of a file that is read into so many: on a CPU it is mapped, and is there beside them unless it is them."""
    stored = asked.base.stored_bytes
    is_as_stored = abs(stored / max(held, 1) - 1) < 0.1
    return 0 if is_as_stored or asked.device != "cpu" else stored


def loading_bytes(asked: Asked) -> float:
    """What is held while the base is read, beside the libraries.

    On a CPU a file in the precision that is asked for is mapped, and its pages are the weights; any other is there
    beside its copy.
    """
    held = held_bytes(asked)
    return held + (_beside_quantized(asked) if asked.is_quantized else _mapped_as(asked, held))


def states(train: TrainConf) -> float:
    """The optimiser's state over what is trained, AdamW's unless ``train.sft.optim`` names another."""
    name = str(train.sft.get("optim", "adamw"))
    numbers = next((count for part, count in STATES.items() if part in name), 2)
    bits = next((bits for bits in (4, 8) if f"{bits}bit" in name), 32)
    return numbers * bits / 32


def activation_bytes(asked: Asked) -> float:
    """What the forward pass keeps of the largest batch, by what was counted of a row; of a quantised base one layer."""
    tokens, length = batch_tokens(asked), pair_length(asked)
    sizes = asked.trained
    kept = tokens * (sizes.saved_per_token + sizes.saved_per_pair * length) + sizes.saved_fixed
    in_full = 2 * asked.base.largest * BYTES[asked.dtype] if asked.is_quantized else 0
    return kept + in_full


def logit_bytes(asked: Asked) -> float:
    """The head sees labelled tokens only, and the loss is computed in float32, piece by piece."""
    labelled = batch_tokens(asked) * asked.rows.mean_labelled / max(asked.rows.mean_tokens, 1)
    numbers = labelled * asked.base.vocabulary
    return LOGITS * full_bytes(asked) * numbers + 4 * min(numbers, SOFTMAX[asked.device])


def evaluation_bytes(asked: Asked) -> float:
    """Logits of the longest rows of an evaluation, scored together, and of those that are kept for the gate.

    The latter are in main memory, in float32.
    """
    numbers = asked.base.vocabulary * asked.held_out.mean_labelled
    scored = min(asked.train.eval_batch_size, asked.held_out.rows) * numbers
    kept = asked.verify.prompts * numbers if asked.verify.enabled and asked.device == "cpu" else 0
    return full_bytes(asked) * scored + 2 * 4 * min(scored, SOFTMAX[asked.device]) + 4 * kept


def gate_bytes(asked: Asked) -> float:
    """The most that the gate holds, libraries included; see `lowrung.finetune.gate.verify`.

    It holds one model at a time, in float32. The largest moment is where a merged model is cast to 16 bits beside
    itself, or is read from such a file; with a quantised base, where that is dequantised. Where all weights were
    trained nothing is merged.
    """
    base = asked.base
    in_full = 4 * base.parameters
    kept = KEPT_LOGITS * 4 * base.vocabulary * asked.verify.prompts * asked.held_out.mean_labelled
    cast = 0.0 if asked.lora.is_full else float(base.parameters * (BYTES[asked.verify.merge_dtype] % 4))
    if asked.is_quantized and not asked.lora.is_full:
        cast = max(cast, held_bytes(asked) + _mapped_beside(asked) - _in_full(asked))
    else:
        cast = max(cast, _mapped_as(asked, in_full))
    return library_bytes(asked) + in_full + cast + kept
