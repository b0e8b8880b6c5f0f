"""A forward and a backward pass over a model without numbers: what they compute, and what is kept between them.

torch's fake tensors run the model's own code on the device's own kernels, without memory and without arithmetic. So
nothing here knows an architecture. Blocks that are alike are run twice and counted as often as they are there: a pass
over a model of 70 billion weights takes as long as one over a small one.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lowrung.finetune.models import attention

aten = torch.ops.aten


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Of attention: each query with each key, and each weight with its value, in as many heads as the query has."""
    return 2 * math.prod(query[:3]) * key[2] * (query[3] + value[3])


def _attention_backward(
    _: Any, query: Sequence[int], key: Sequence[int], value: Sequence[int], *__: Any, **___: Any
) -> int:
    """Of its gradients: the weights again, and what reaches query, key, value and the weights themselves."""
    return 2 * math.prod(query[:3]) * key[2] * (3 * query[3] + 2 * value[3])


def _grouped(one: Sequence[int], other: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    """Of `_grouped_mm`: each token goes to one expert; of two matrices, each token is a part of one expert's sum."""
    return 2 * math.prod(one) * other[-1]


KERNELS = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
"""Those of torch's attention."""

FORMULAS = {
    aten.addmm_: flop_registry[aten.addmm].__wrapped__,
    aten._grouped_mm: _grouped,
    **{getattr(aten, f"_scaled_dot_product_{kernel}"): _attention for kernel in KERNELS},
    **{getattr(aten, f"_scaled_dot_product_{kernel}_backward"): _attention_backward for kernel in KERNELS},
}
"""Operations that the counter of torch does not know, by the shapes of their tensors; nor does that of torch 2.11 know
attention where several heads share a key."""

CAUSAL = "sdpa_causal"
"""Torch's attention without a mask, as `lowrung.finetune.models.attention` computes each example of a row."""

OUTSIDE, HEAD = "outside", "head"

MOST_SECONDS = 5.0
"""Of CPU time, that passes may take: a pass of RWKV takes that long for 100 tokens, others a tenth of a second."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what torch logs of an operation that it cannot do without numbers: it raises, too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _AnyPrecision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Has experts be multiplied in any precision, as a CPU does; without numbers torch knows bfloat16 alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        one, other = args[:2]
        ends = args[2] if len(args) > 2 else (kwargs or {})["offs"]
        groups = ends.shape if one.dim() == other.dim() == 2 else one.shape[:-2]
        return one.new_empty(*groups, one.shape[-2], other.shape[-1])


@dataclasses.dataclass(frozen=True)
class Counted:
    """Of a pass over one row, the head left out but for what it keeps whatever the row is.

    Attributes:
        forward: operations of the forward pass, two for each multiplication and addition.
        backward: of the backward pass.
        saved: bytes that are kept from the one for the other: each tensor's memory once, weights left out.
        checkpointed: the same where blocks keep their inputs alone, and are computed again, one by one.
    """

    forward: float
    backward: float
    saved: float
    checkpointed: float


def counted(
    model: Any, lengths: Sequence[int], device: torch.device, *, alike: bool = True, masked: bool = True
) -> list[Counted]:
    """Counts a pass over a row of each of these lengths.

    Args:
        model: with its adapter, on the meta device, in the precision that it is trained in; it is used up.
        lengths: in tokens.
        device: whose kernels are taken.
        alike: whether of blocks that are alike two are run for all, which some forward passes do not bear.
        masked: whether the pass is given its mask, which some make themselves.

    Raises:
        TimeoutError: when it takes more than `MOST_SECONDS`, as where a model goes from token to token.
        Exception: whatever a model raises that asks for a tensor's numbers, as for the way of a token to an expert.
    """
    model.train()
    blocks = _blocks(model) if alike else _each(model)
    for name, block in blocks.items():
        if not block.is_run:
            _leave_out(model.get_submodule(name), model.get_submodule(block.like))
    until = time.process_time() + MOST_SECONDS
    with _quiet(), FakeTensorMode(allow_non_fake_inputs=True), _AnyPrecision():  # type: ignore[no-untyped-call]
        model.to_empty(device=device)
        return [_counted(model, blocks, length, masked=masked, until=until) for length in lengths]


def _counted(model: Any, blocks: "Mapping[str, _Block]", length: int, *, masked: bool, until: float) -> Counted:
    tally = _Tally(model, until)
    with tally.watching(model, blocks):
        inputs = {"input_ids": torch.zeros(1, length, dtype=torch.long, device=model.device)}
        if masked:  # with four dimensions it is taken as it is; any other is looked into, and here it has no content
            mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=model.device)
            inputs["attention_mask"] = mask
        logits = model(**inputs, use_cache=False).logits
        forward = tally.operations()
        logits.float().sum().backward()
        both = tally.operations()
    return Counted(
        forward=_whole(forward, blocks),
        backward=_whole({part: both[part] - forward.get(part, 0) for part in both}, blocks),
        saved=_whole(tally.saved, blocks) + tally.saved[HEAD],
        checkpointed=tally.checkpointed(blocks),
    )


@dataclasses.dataclass(frozen=True)
class _Block:
    """One of a model's blocks.

    Attributes:
        is_run: whether the pass goes through it; not where two of its kind come before it.
        times: how many blocks it stands for.
        like: the first one of its kind.
    """

    is_run: bool
    times: int
    like: str


def _blocks(model: nn.Module) -> dict[str, _Block]:
    """The blocks of a model's outermost lists of modules, by name: of a kind, the first two are run.

    The first block of all keeps less than its like, where nothing before it is trained, so it stands for itself alone.
    """
    kinds = {name: _kind(model.get_submodule(name)) for name in _each(model)}
    counts, seen, found = Counter(kinds.values()), defaultdict[Hashable, list[str]](list), {}
    for name, kind in kinds.items():
        seen[kind].append(name)
        number = len(seen[kind])
        found[name] = _Block(number <= 2, counts[kind] - 1 if number == 2 else 1, seen[kind][0])
    return found


def _each(model: nn.Module) -> dict[str, _Block]:
    """The blocks of a model's outermost lists of modules, by name, each for itself."""
    found: dict[str, _Block] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{block}.") for block in found):
            found |= {f"{name}.{number}": _Block(True, 1, f"{name}.{number}") for number in range(len(module))}
    return found


def _kind(block: nn.Module) -> Hashable:
    """Equal for blocks that compute the same: of the same modules, with the same settings and shapes."""
    return tuple((name, type(module), *_settings(module), *_shapes(module)) for name, module in block.named_modules())


def _settings(module: nn.Module) -> Iterator[Hashable]:
    for name, value in vars(module).items():
        if isinstance(value, int | float | str) and not re.search("idx|index|number|_id$", name):
            yield name, value


def _shapes(module: nn.Module) -> Iterator[Hashable]:
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter.shape, parameter.dtype, parameter.requires_grad


def _leave_out(block: Any, like: nn.Module) -> None:
    """Has a block give back what it gets, in the form in which one of its kind gives it."""
    outputs: list[Any] = []
    like.register_forward_hook(lambda _, __, output: outputs.append(output))

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        output = outputs[-1]
        return (hidden_states, *output[1:]) if isinstance(output, tuple) else hidden_states

    block._modules.clear()
    block._parameters.clear()
    block.forward = forward


def _whole(counts: Mapping[str, float], blocks: Mapping[str, _Block]) -> float:
    """Of all blocks and what is around them, without the head."""
    return sum(count * (blocks[part].times if part in blocks else 1) for part, count in counts.items() if part != HEAD)


class _Tally:
    """What a pass computes and keeps, by the block that does it, and the rest as ``outside`` and ``head``."""

    def __init__(self, model: nn.Module, until: float) -> None:
        self.part = OUTSIDE
        self.until = until
        self.weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
        self.saved: dict[str, float] = defaultdict(float)
        self.inputs: dict[str, float] = defaultdict(float)
        self._flops: dict[str, float] = defaultdict(float)
        self._counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self._counted = 0
        self._held: dict[int, Any] = {}  # a storage that was freed would give its number to another
        self._given: dict[int, Any] = {}

    def operations(self) -> dict[str, float]:
        """Those so far, by part."""
        self._go_to(self.part)
        return dict(self._flops)

    def checkpointed(self, blocks: Mapping[str, _Block]) -> float:
        """Bytes that are held at most where blocks keep their inputs: the largest block's beside all inputs."""
        largest = max((self.saved[name] for name in blocks), default=0.0)
        return self.saved[OUTSIDE] + self.saved[HEAD] + _whole(self.inputs, blocks) + largest

    @contextlib.contextmanager
    def watching(self, model: Any, blocks: Mapping[str, _Block]) -> Iterator[None]:
        """Counts while the block runs; the head sees one position."""
        head = model.get_output_embeddings()
        handles = [head.register_forward_pre_hook(self._enter_head), head.register_forward_hook(self._leave_head)]
        for name in (name for name, block in blocks.items() if block.is_run):
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(functools.partial(self._enter, name), with_kwargs=True))
            handles.append(module.register_forward_hook(functools.partial(self._leave, name)))
        try:
            with self._counter, torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._go_to(name)
        for tensor in _tensors((args, kwargs)):
            self.inputs[name] += self._new_bytes(tensor, self._given)

    def _leave(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        self._go_to(OUTSIDE)
        self._go_back_to(name, output)

    def _enter_head(self, _: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._go_to(HEAD)
        self._go_back_to(OUTSIDE, given[0])
        one = given[0][..., :1, :].clone()  # labelled positions are picked: a head that is trained keeps no others
        return (one, *given[1:])

    def _leave_head(self, _: nn.Module, __: Any, output: Any) -> None:
        self._go_to(OUTSIDE)
        self._go_back_to(HEAD, output)

    def _go_back_to(self, part: str, output: Any) -> None:
        """Has the backward pass be this part's, once it has come to its output."""
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self._go_to(part))  # type: ignore[no-untyped-call]

    def _keep(self, tensor: Tensor) -> Tensor:
        self.saved[self.part] += self._new_bytes(tensor, self._held)
        if time.process_time() > self.until:
            raise TimeoutError("it goes from token to token")
        return tensor

    def _new_bytes(self, tensor: Tensor, known: dict[int, Any]) -> int:
        """The bytes of a tensor's memory, the first time that it comes; a weight is none."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.weights or storage._cdata in known:
            return 0
        known[storage._cdata] = storage
        return storage.nbytes()

    def _go_to(self, part: str) -> None:
        counted = self._counter.get_total_flops()
        self._flops[self.part] += counted - self._counted
        self._counted, self.part = counted, part


def _tensors(values: Any) -> Iterator[Tensor]:
    return (each for each in torch.utils._pytree.tree_leaves(values) if isinstance(each, Tensor))


def settle_attention(model: Any, wanted: str | None, kind: str) -> None:
    """Has a base on the meta device attend as in training: where rows are joined, by each example and without a mask.

    Args:
        model: the base.
        wanted: ``model.attn_implementation``.
        kind: of the device that it is trained on.
    """
    used = wanted or attention.name(model)
    if used.startswith("flash_attention") or (used == "sdpa" and kind == "cpu"):
        attention.change(model, attention.name(model), CAUSAL)
    elif used == "eager":
        model.set_attn_implementation("eager")


def _causal(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Torch's attention without a mask. On a CPU its parts are put together, so that all are held twice."""
    output: Tensor = sdpa_attention_forward(module, query, key, value, None, **{**options, "is_causal": True})[0]
    return output.clone() if output.device.type == "cpu" else output, None


AttentionInterface.register(CAUSAL, _causal)
AttentionMaskInterface.register(CAUSAL, sdpa_mask)
