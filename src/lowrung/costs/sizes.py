"""The sizes that memory and time follow from: of a base, of what is trained on it, and of its rows. Values alone."""

import dataclasses
from collections.abc import Mapping, Sequence

from lowrung.config import schema
from lowrung.config.schema import LoraConf, ModelConf, TrainConf


@dataclasses.dataclass(frozen=True)
class BaseSizes:
    """A base model's, counted without its weights.

    Attributes:
        parameters: all, those of tied matrices once.
        quantizable: those of the layers that ``model.quantization`` holds in 8 or 4 bits.
        largest: of the largest of these layers, which is held in full for a moment where it is used.
        width: of the hidden states.
        vocabulary: the rows of the head.
        layers: its blocks.
        stored_bytes: of the files with weights; 0 where none are there.
        guesses: which of these the model's config does not say, each with what was taken in its place.
    """

    parameters: int
    quantizable: int
    largest: int
    width: int
    vocabulary: int
    layers: int = 1
    stored_bytes: int = 0
    guesses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TrainedSizes:
    """Of what is trained on a base, and of a forward and a backward pass with it, the head left out.

    In rows of L tokens, a token takes ``per_token + per_pair * L``, and each pass ``fixed`` beside, whatever its rows
    are: DoRA computes with whole weights.

    Attributes:
        trainable: parameters.
        trainable_bytes: theirs.
        flops_per_token: operations of a forward pass, two for each multiplication and addition.
        flops_per_pair: the same for each pair of tokens, which attention compares.
        saved_per_token: bytes that the forward pass keeps for the backward pass.
        saved_per_pair: the same for each pair of tokens.
        flops_fixed: operations of each forward pass beside.
        saved_fixed: bytes that each pass keeps beside.
        backward_flops_per_token: operations of a backward pass.
        backward_flops_per_pair: the same for each pair of tokens.
        backward_flops_fixed: operations of each backward pass beside.
        guesses: which of these could not be counted, each with what was taken in its place.
    """

    trainable: int
    trainable_bytes: int
    flops_per_token: float
    flops_per_pair: float
    saved_per_token: float
    saved_per_pair: float
    flops_fixed: float = 0.0
    saved_fixed: float = 0.0
    backward_flops_per_token: float = 0.0
    backward_flops_per_pair: float = 0.0
    backward_flops_fixed: float = 0.0
    guesses: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """Of the training or the held-out rows.

    Attributes:
        rows: how many they are.
        tokens: of a row: 101 percentiles, the shortest row first.
        labelled: tokens with a label of a row, in the same way.
        guesses: what is not known of them, with what was taken in its place.
    """

    rows: int
    tokens: tuple[int, ...]
    labelled: tuple[int, ...]
    guesses: tuple[str, ...] = ()

    @property
    def mean_tokens(self) -> float:
        """Of a row."""
        return _mean(self.tokens)

    @property
    def mean_labelled(self) -> float:
        """Tokens with a label of a row."""
        return _mean(self.labelled)

    def longest_of(self, rows: int) -> float:
        """The tokens of the longest of so many rows, drawn at random: the mean over draws.

        With F the share of rows of at most t tokens, the longest of n has at most t with probability F^n.
        """
        steps = len(self.tokens) - 1
        return sum(
            (self.tokens[i] + self.tokens[i + 1]) / 2 * (((i + 1) / steps) ** rows - (i / steps) ** rows)
            for i in range(steps)
        )


def _mean(percentiles: Sequence[int]) -> float:
    return (sum(percentiles) - (percentiles[0] + percentiles[-1]) / 2) / (len(percentiles) - 1)


def counted_model(model: ModelConf) -> ModelConf:
    """The settings of a base without those that no size of what is trained on it follows from.

    In 8 bits and in 4, with any precision of the rest, a pass computes in float32 with layers of the same shapes.
    """
    model = dataclasses.replace(model, device_map=None)
    if model.quantization == "none":
        return model
    return dataclasses.replace(model, quantization="nf4", double_quantization=False, dtype="auto")


def trained_key(lora: LoraConf, train: TrainConf) -> str:
    """Names the sizes of what is trained on a base, at any rank: settings that are equal otherwise have equal ones."""
    return schema.digest([sized_key(lora), train.gradient_checkpointing])


def sized_key(lora: LoraConf) -> str:
    """Names the settings of an adapter that its sizes follow from, beside its rank."""
    return schema.digest(_sized(lora))


def rank_of(lora: LoraConf) -> int:
    """The rank that sizes follow from; 1 where all weights are trained, and there is none."""
    return 1 if lora.is_full else lora.r


def _sized(lora: LoraConf) -> LoraConf:
    """The adapter's settings, without its rank, and without those that no size follows from."""
    if lora.is_full:
        return LoraConf(method=lora.method, r=1, alpha=1.0)
    return dataclasses.replace(
        lora,
        r=1,
        alpha=1.0,
        alpha_pattern=None,
        dropout=float(lora.dropout > 0),
        use_rslora=False,
        init=lora.init if lora.init in ("eva", "mica") else "default",
        init_examples=1,
        lora_plus_ratio=None,
    )


def at_rank(known: Mapping[int, TrainedSizes], rank: int) -> TrainedSizes | None:
    """The sizes at a rank, from those at others: each is a constant and a part that grows with the rank.

    Args:
        known: the sizes of the same adapter at other ranks, two at least.
        rank: the one that is asked for.
    """
    if rank in known:
        return known[rank]
    if len(known) < 2:
        return None
    low, high = min(known), max(known)
    share = (rank - low) / (high - low)
    first, last = known[low], known[high]
    names = [field.name for field in dataclasses.fields(TrainedSizes) if field.name != "guesses"]
    values = {name: getattr(first, name) + share * (getattr(last, name) - getattr(first, name)) for name in names}
    whole = {name: round(values[name]) for name in ("trainable", "trainable_bytes")}
    return TrainedSizes(**{**values, **whole}, guesses=first.guesses)
