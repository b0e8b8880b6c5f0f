"""What a run is predicted to take, from its config and what the preflight found."""

import dataclasses
from pathlib import Path

from lowrung.config import machine, schema, signature
from lowrung.config.schema import Config, LoraConf, ModelConf
from lowrung.costs import history, prediction, sizes
from lowrung.costs.prediction import Prediction
from lowrung.costs.sizes import TrainedSizes
from lowrung.costs.terms import Asked
from lowrung.costs.units import size
from lowrung.engine import memory
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs
from lowrung.store import layout
from lowrung.store.outcome import Outcome


def predict(
    config: Config, preflight: Preflight, threads: int, *, is_tracking: bool = False, is_elsewhere: bool = False
) -> Prediction | None:
    """What a run will take of memory, time and disk; None where the sizes of its adapter are not known.

    Args:
        config: the run's.
        preflight: what was found of its model and data, without problems.
        threads: CPU threads.
        is_tracking: whether the process that trains it sends to MLflow, too.
        is_elsewhere: whether it computes on a cluster's node. What this machine measured says nothing of that, and what
            the node did on which model and data were checked says most; for a run of this machine it is the other way.
    """
    wanted = asked(config, preflight, threads)
    if wanted is None:
        return None
    wanted = dataclasses.replace(wanted, is_tracking=is_tracking)
    multiplies = _flops_per_second(wanted, preflight)
    here, checked_on = machine.described(), preflight.machine or machine.described()
    machines = [checked_on] if is_elsewhere else [here, checked_on]
    speed = history.speed(wanted, Path(config.store).absolute(), multiplies, machines)
    return prediction.predict(wanted, speed)


def too_large(config: Config, predicted: Prediction) -> str | None:
    """What to say of a single run that does not fit by the plan; of a sweep's, `hydra.sweeper.on_oom` decides.

    Nothing is said of a model that is spread over several GPUs, since how it is spread is not known.

    Args:
        config: the run's.
        predicted: what it is predicted to take.
    """
    device = signature.device_kind()
    there = memory.of_device(device)
    if there is None or config.model.device_map is not None:
        return None
    ranks = config.train.rank_count if device == "cpu" else 1
    needed = predicted.that_must_fit(device).memory_bytes * ranks + there.context
    if needed <= there.total:
        return None
    return (
        f"by the plan this run needs {size(needed)}, and there are {size(there.total)} of {there.name}: it may end for"
        " want of memory. With -m and hydra.sweeper.dry_run=true the settings are named that would make it fit."
    )


def note(config: Config, preflight: Preflight, threads: int, outcome: Outcome) -> None:
    """Notes what a run has measured, for the next predictions; see `lowrung.costs.history.note`.

    Args:
        config: the run's.
        preflight: what was found of its model and data.
        threads: CPU threads.
        outcome: its end, with what was predicted of it.
    """
    if (wanted := asked(config, preflight, threads)) is not None:
        history.note(wanted, outcome, Path(config.store).absolute())


def asked(config: Config, preflight: Preflight, threads: int) -> Asked | None:
    """A run as the formulas take it; None where the sizes of its adapter are not known.

    Args:
        config: the run's.
        preflight: what was found of its model and data, without problems.
        threads: CPU threads.
    """
    trained = _trained(config, preflight)
    if trained is None or preflight.base is None:
        return None
    rows, held_out = preflight.rows
    return Asked(
        base=preflight.base,
        trained=trained,
        rows=rows,
        held_out=held_out,
        model=config.model,
        lora=config.lora,
        train=config.train,
        verify=config.verify,
        steps=inputs.steps(config, preflight),
        device=signature.device_kind(),
        dtype=_dtype(config.model, config.lora),
        threads=threads,
        max_length=config.data.max_length,
        answered=held_out.rows if config.data.metrics else 0,
        is_base_kept=_is_base_kept(config, preflight, threads),
    )


def _is_base_kept(config: Config, preflight: Preflight, threads: int) -> bool:
    """Whether the base's scores of the held-out rows are in the store."""
    folder = inputs.base_folder(config, preflight, threads)
    return layout.base_scores(folder, config.train.eval_batch_size).exists()


def _trained(config: Config, preflight: Preflight) -> TrainedSizes | None:
    """The sizes of what the run trains: counted, or between those of the ends of a search over its rank."""
    known = preflight.trained.get(sizes.trained_key(config.lora, config.train), {})
    found = sizes.at_rank(known, sizes.rank_of(config.lora))
    processor = preflight.machine.get("processor", machine.processor())
    if found is None or processor == machine.processor() or signature.device_kind() == "cuda":
        return found
    guess = f"the speed is what {processor} was measured to have, on which model and data were checked"
    return dataclasses.replace(found, guesses=(*found.guesses, guess))


def _flops_per_second(wanted: Asked, preflight: Preflight) -> float:
    """How fast each rank of a run multiplies matrices; on a CPU as much faster than the preflight as it has threads."""
    if wanted.device != "cpu":
        return preflight.flops_per_second
    return preflight.flops_per_second * schema.threads_of_a_rank(wanted.train, wanted.threads) / preflight.threads


def _dtype(model: ModelConf, lora: LoraConf) -> str:
    """The precision that a base is held in."""
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if signature.device_kind() == "cuda" and not lora.is_full else "float32"
