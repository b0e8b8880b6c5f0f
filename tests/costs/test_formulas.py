"""Each term of the formulas, against the bytes that torch allocates for it, by differences."""

import dataclasses
import functools

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lowrung.config.schema import LoraConf, ModelConf, TrainConf
from lowrung.costs import memory_formulas, time_formulas
from lowrung.costs.sizes import RowSizes, rank_of
from lowrung.costs.terms import Asked
from lowrung.finetune import sizes
from lowrung.finetune.lora import adapter, products
from lowrung.finetune.models import head, pretrained, score
from tests.costs.test_history import asked

pytestmark = pytest.mark.slow

TINY = ModelConf("embedded:tiny")
LORA = LoraConf(r=4, alpha=8.0)
CPU = torch.device("cpu")


@functools.cache
def base_sizes():
    return sizes.of_base(TINY)


@functools.cache
def _counted(method: str, rank: int):
    """The sizes of what is trained; to count them takes a second."""
    lora = LoraConf(method=method, r=rank, alpha=8.0)
    settings = TrainConf(batch_size=1, eval_batch_size=1, eval_steps=1)
    ((ranks),) = sizes.of_trained(TINY, [lora], [settings]).values()
    return ranks[rank_of(lora)]


def run(rows: int = 4, length: int = 32, labelled: int = 8, lora: LoraConf = LORA, model=TINY, **train) -> Asked:
    """A run of the tiny model over rows of equal lengths."""
    settings = TrainConf(**{"batch_size": rows, "eval_batch_size": 4, "eval_steps": 5, "max_steps": 5, **train})
    same = RowSizes(64, (length,) * 101, (labelled,) * 101)
    own = {"trained": _counted(lora.method, lora.r), "rows": same, "held_out": same, "lora": lora, "train": settings}
    return asked(base=base_sizes(), model=model, steps=5, **own)


def trained(lora: LoraConf = LORA):
    model = pretrained.load_base(TINY, CPU)
    if lora.is_full:
        return model.requires_grad_(True).train()
    adapted = adapter.attach(model, lora)
    products.settle(adapted)
    return adapted.train()


def batch(rows: int, length: int, labelled: int) -> head.Batch:
    ids = torch.arange(rows * length).reshape(rows, length) % 250
    labels = ids.clone()
    labels[:, : length - labelled] = -100
    return {"input_ids": ids, "labels": labels}


def peak(model, *shape: int) -> int:
    """The most bytes that a forward and a backward pass allocate, beside what is there."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        logits, labels = head.on_labelled_tokens(model, batch(*shape))
        score.negative_log_likelihood(logits, labels).backward()
    events = [each for each in watched.profiler.kineto_results.events() if each.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda each: each.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_ademamix_keeps_three_numbers():
    optimizers = pytest.importorskip("bitsandbytes").optim
    parameter = torch.nn.Parameter(torch.zeros(64, 128))
    parameter.grad = torch.zeros_like(parameter)
    optimizer = optimizers.AdEMAMix([parameter])
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, 0)
    held = [optimizer.state[parameter][name] for name in ("state1", "state2")]
    assert bytes_of(held) == memory_formulas.states(run(sft={"optim": "ademamix"}).train) * bytes_of([parameter])


def bytes_of(tensors) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def test_activations_grow_with_the_tokens_as_predicted():
    model = trained()
    peak(model, 1, 8, 1)  # what is allocated once
    more = peak(model, 8, 64, 1) - peak(model, 4, 64, 1)
    predicted = [memory_formulas.memory(run(rows, 64, 1)).activations for rows in (4, 8)]
    assert more == pytest.approx(predicted[1] - predicted[0], rel=0.2)


def test_logits_grow_with_the_labelled_tokens_as_predicted():
    words = 8192
    config = LlamaConfig(
        vocab_size=words, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).train()
    model.model.requires_grad_(True)
    model.lm_head.requires_grad_(False)
    more = peak(model, 2, 64, 40) - peak(model, 2, 64, 20)
    held = (memory_formulas.LOGITS + 1) * 4 * words * 2 * 20  # with the softmax, which is of one piece here
    assert more == pytest.approx(held, rel=0.05)
    bases = [
        dataclasses.replace(run(2, 64, count), base=dataclasses.replace(base_sizes(), vocabulary=words))
        for count in (20, 40)
    ]
    few, many = (memory_formulas.memory(each).logits for each in bases)
    assert many - few == pytest.approx(memory_formulas.AROUND["cpu"] * held)


@pytest.mark.parametrize("lora", [LORA, LoraConf(r=16, alpha=8.0), LoraConf(method="full", r=1, alpha=1.0)], ids=str)
def test_what_is_trained_its_gradients_and_the_optimiser(lora):
    model, predicted = trained(lora), memory_formulas.memory(run(lora=lora))
    parameters = [each for each in model.parameters() if each.requires_grad]
    assert predicted.adapter == (0 if lora.is_full else bytes_of(parameters))
    optimizer = torch.optim.AdamW(parameters, fused=True)
    peak(model, 1, 8, 1)
    assert predicted.gradients == bytes_of(each.grad for each in parameters)
    optimizer.step()
    states = [each for state in optimizer.state.values() for name, each in state.items() if name != "step"]
    assert predicted.optimizer == bytes_of(states)


@pytest.mark.parametrize(
    ("name", "states"),
    [
        *[("adamw_8bit", 0.5), ("adamw_torch_4bit", 0.25), ("sgd", 0), ("schedule_free_sgd", 1), ("adafactor", 0.01)],
        *[("lion_32bit", 1), ("ademamix", 3), ("paged_ademamix_8bit", 0.75), ("stable_adamw", 2)],
    ],
)
def test_other_optimisers_keep_less_or_more(name, states):
    given = run(sft={"optim": name})
    assert memory_formulas.memory(given).optimizer == pytest.approx(states * given.trained.trainable_bytes)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_the_weights_in_each_precision(quantization):
    pytest.importorskip("bitsandbytes")
    held = pretrained.load_base(ModelConf("embedded:tiny", quantization=quantization), CPU)
    parts = [*held.parameters()]
    for module in held.modules():
        constants = getattr(getattr(module, "weight", None), "quant_state", None)
        if constants is not None:
            parts += [constants.absmax, constants.state2.absmax] if constants.nested else [constants.absmax]
    given = run(model=ModelConf("embedded:tiny", quantization=quantization))
    on_gpu = dataclasses.replace(given, device="cuda")  # where no file is mapped and no heap keeps what was freed
    assert memory_formulas.weight_bytes(on_gpu) == pytest.approx(bytes_of(parts), rel=0.03)
    more = memory_formulas.weight_bytes(given) - memory_formulas.weight_bytes(on_gpu)
    assert (more > 0) == (quantization != "none")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_the_head_and_its_logits_are_in_float32_beside_quantised_weights(dtype, quantization):
    pytest.importorskip("bitsandbytes")
    model = ModelConf("embedded:tiny", dtype=dtype, quantization=quantization)
    base = pretrained.load_base(model, CPU)
    if quantization != "none":
        base = adapter.prepare_quantized(base, gradient_checkpointing=False)
    logits = base(**{"input_ids": torch.arange(3, 9)[None]}).logits
    given = dataclasses.replace(run(model=model), dtype=dtype)
    assert memory_formulas.full_bytes(given) == logits.element_size()
    full = [each for each in base.parameters() if each.dtype not in (torch.int8, torch.uint8)]
    without = dataclasses.replace(given.base, quantizable=given.base.parameters - sum(each.numel() for each in full))
    held = memory_formulas.weight_bytes(dataclasses.replace(given, base=without, device="cuda"))
    assert held >= bytes_of(full)


@pytest.mark.parametrize(("blocks", "measured"), [(24, (512 / 3980, 512 / 2708)), (32, (512 / 2230,))])
def test_a_gpu_waits_for_python_in_a_small_step_as_long_as_was_measured(blocks, measured):
    """Steps of 512 tokens on two hosts with an H200; the operations take a tenth of it."""
    given = run(1)
    given = dataclasses.replace(given, device="cuda", base=dataclasses.replace(given.base, layers=blocks), steps=1)
    waiting = time_formulas.work(given).step_seconds
    assert 0.7 * min(measured) < waiting < 1.3 * max(measured)


def test_a_process_that_tracks_its_run_holds_mlflow_in_every_phase():
    given = memory_formulas.memory(run())
    tracked = memory_formulas.memory(dataclasses.replace(run(), is_tracking=True))
    for phase in ("training", "loading", "evaluation", "gate"):
        assert getattr(tracked, phase) - getattr(given, phase) == pytest.approx(memory_formulas.TRACKER["cpu"])
    on_gpu = dataclasses.replace(run(), device="cuda")
    assert memory_formulas.memory(dataclasses.replace(on_gpu, is_tracking=True)) == memory_formulas.memory(on_gpu)


def test_the_peak_is_that_of_a_phase_and_not_a_sum():
    given = run()
    held = memory_formulas.memory(given)
    assert held.peak == max(held.training, held.gate, held.loading, held.evaluation)
    many = dataclasses.replace(given, train=dataclasses.replace(given.train, eval_batch_size=64))
    assert memory_formulas.memory(many).evaluation > held.evaluation
    assert memory_formulas.memory(many).training == held.training


@pytest.mark.parametrize(
    ("one", "other", "part", "times"),
    [
        ({"rows": 4}, {"rows": 8}, "steps", 2),
        ({}, {"gradient_accumulation_steps": 3}, "steps", 3),
        ({"rows": 8, "packing": True}, {"rows": 4, "packing": True}, "steps", 0.5),
        ({}, {"eval_steps": 1}, "evaluations", 5),
    ],
    ids=["rows", "accumulation", "packed-rows", "evaluations"],
)
def test_work_grows_with_what_is_computed(one, other, part, times):
    few, many = (getattr(time_formulas.work(run(**settings)), part) for settings in (one, other))
    assert many == pytest.approx(times * few, rel=0.35 if part == "steps" else 1e-6)  # an update is done once


def test_no_rows_of_any_kind_give_a_number_that_is_none():
    for rows in (RowSizes(1, (1,) * 101, (0,) * 101), RowSizes(3, tuple(range(101)), (0,) * 101)):
        given = dataclasses.replace(run(), rows=rows, held_out=rows)
        assert 0 < memory_formulas.memory(given).peak < float("inf")
        assert 0 < time_formulas.work(given).total < float("inf")
