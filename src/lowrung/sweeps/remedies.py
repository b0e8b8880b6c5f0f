"""Settings with which a run would fit its device: each is predicted, and one that does not help is not named."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from lowrung.config import rules
from lowrung.config.schema import Config, ModelConf
from lowrung.costs.prediction import Prediction
from lowrung.costs.sizes import RowSizes
from lowrung.finetune.found import Preflight
from lowrung.report.planned import Remedy
from lowrung.sweeps.predicting import is_time_known
from lowrung.sweeps.room import Room

MOST = 4
"""Remedies without more GPUs that are named: those that cost least."""

MOST_CUT = 0.5
"""Share of the rows: to cut more is to teach another task."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A run that may fit or not.

    Attributes:
        config: the run's.
        found: of its model and data.
        room: bytes that it has.
        settings: what was changed of the run that was asked for, as overrides.
        prices: of each change, in words.
    """

    config: Config
    found: Preflight
    room: float
    settings: tuple[str, ...] = ()
    prices: tuple[str, ...] = ()

    def changed(self, settings: Sequence[str], price: str, **fields: object) -> "Case":
        """The case with further changes."""
        return dataclasses.replace(
            self,
            settings=(*self.settings, *settings),
            prices=(*self.prices, price),
            **fields,  # type: ignore[arg-type]
        )


Step = Callable[[Case], Iterator[Case]]
"""Gives a case with one change, or with more and more of it; none where there is nothing to change."""


class Remedies:
    """What makes a run fit.

    Args:
        predict: what a run will take, by its config and what was found of its model and data.
        room: what the run has.
        gpus: how many the machine has that a run could be spread over; 0 where it cannot.
        workers: the setting that says how many runs share a device.
    """

    def __init__(
        self, predict: Callable[[Config, Preflight], Prediction | None], room: Room, gpus: int, workers: str
    ) -> None:
        self._predict = predict
        self._room = room
        self._gpus = gpus
        self._workers = workers

    def of(self, config: Config, found: Preflight) -> list[Remedy]:
        """The fewest changes that are enough, with each as the dearest of them; more GPUs come last, and are not cut.

        More GPUs are joined with other changes only where nothing else is enough.
        """
        assert self._room.bytes is not None
        start = Case(config, found, self._room.bytes)
        devices = [self._spread, self._divided]
        cases = [*self._enough(start, self._settings)[:MOST], *self._enough(start, devices, most=1)]
        return [self._remedy(case) for case in cases or self._enough(start, [*self._settings, *devices])[:MOST]]

    @property
    def _settings(self) -> list[Step]:
        """What needs no other device, from the cheapest to the dearest: what changes no result comes first."""
        return [
            self._fewer_at_once,
            _smaller_evaluations,
            _smaller_batches,
            _checkpointing,
            _half_precision,
            _quantized("int8", 8),
            _quantized("nf4", 4),
            _shorter_rows,
            _no_gate,
        ]

    def _enough(self, start: Case, steps: Sequence[Step], most: int | None = None) -> list[Case]:
        """Changes that are enough together, and none of which may be left out: the fewest for each dearest one.

        Args:
            start: the run as it was asked for.
            steps: kinds of changes, from the cheapest to the dearest.
            most: so many at a time; None is any number.
        """
        steps = [step for step in steps if any(step(start))]
        found: list[tuple[Step, ...]] = []
        is_hopeful = self._hope(start, steps)
        for count in range(1, (most or len(steps)) + 1):
            for chosen in itertools.combinations(steps, count):
                is_more = any(set(fewer) <= set(chosen) for fewer in found)
                if not is_more and is_hopeful(chosen) and self._fits(_changed(start, chosen, {})):
                    found.append(chosen)
        fewest = {chosen[-1]: chosen for chosen in reversed(found)}
        return [self._least(start, fewest[step]) for step in steps if step in fewest]

    def _hope(self, start: Case, steps: Sequence[Step]) -> Callable[[Sequence[Step]], bool]:
        """Says whether changes might be enough: not where they are not, with all others that never need more memory.

        So a run that nothing makes fit takes a few predictions, and not one for each of two thousand sets of changes.
        """
        harmless = [step for step in steps if step in (self._fewer_at_once, *_NEVER_WORSE)]

        @functools.cache
        def is_hopeful(others: frozenset[Step]) -> bool:
            return self._fits(_changed(start, [step for step in steps if step in others or step in harmless], {}))

        return lambda chosen: is_hopeful(frozenset(chosen).difference(harmless))

    def _least(self, start: Case, steps: Sequence[Step]) -> Case:
        """The least of changes that are enough if each is taken as far as it goes; the dearest is lessened first."""
        far: dict[Step, int] = {}
        for step in reversed(steps):
            tries = ({**far, step: count} for count in itertools.count())
            far = next(each for each in tries if self._fits(_changed(start, steps, each)))
        return _changed(start, steps, far)

    def _fits(self, case: Case) -> bool:
        found = None if rules.problems(case.config) else self._predict(case.config, case.found)
        return found is not None and found.memory_bytes <= case.room

    def _remedy(self, case: Case) -> Remedy:
        found = self._predict(case.config, case.found)
        assert found is not None
        seconds = found.seconds if is_time_known() else None
        return Remedy(case.settings, "; ".join(case.prices), found.memory_bytes, seconds, case.room)

    def _fewer_at_once(self, case: Case) -> Iterator[Case]:
        sharing = self._room.at_once
        for fewer in range(sharing - 1, 0, -1):
            price = f"{fewer} at a time instead of {sharing}"
            yield case.changed([f"{self._workers}={fewer}"], price, room=case.room * sharing / fewer)

    def _spread(self, case: Case) -> Iterator[Case]:
        """The model's blocks over several GPUs."""
        if case.config.model.device_map is not None or case.config.train.parallel != "none":
            return
        model = dataclasses.replace(case.config.model, device_map="auto")
        for gpus in _powers(self._gpus):
            settings = ["model.device_map=auto", f"hydra.launcher.gpus_per_trial={gpus}"]
            price = f"{gpus} GPUs for each run, which compute in turns"
            yield case.changed(
                settings, price, room=case.room * gpus, config=dataclasses.replace(case.config, model=model)
            )

    def _divided(self, case: Case) -> Iterator[Case]:
        """The weights over several GPUs, each of which has a part of each batch too."""
        if case.config.model.device_map is not None or case.config.train.parallel == "fsdp":
            return
        for gpus in _powers(self._gpus):
            if case.config.train.batch_size % gpus:
                continue
            settings = ["train.parallel=fsdp", f"hydra.launcher.gpus_per_trial={gpus}"]
            train = dataclasses.replace(case.config.train, parallel="fsdp", ranks=gpus)
            price = f"{gpus} GPUs for each run"
            yield case.changed(settings, price, config=dataclasses.replace(case.config, train=train))


def _changed(case: Case, steps: Sequence[Step], far: Mapping[Step, int]) -> Case:
    """The case with these changes, each as far as is said, or as far as it goes."""
    for step in steps:
        if degrees := list(step(case)):
            case = degrees[far.get(step, -1)]
    return case


def _powers(most: int) -> Iterator[int]:
    number = 2
    while number <= most:
        yield number
        number *= 2


def _smaller_evaluations(case: Case) -> Iterator[Case]:
    size = case.config.train.eval_batch_size
    while size > 1:
        size //= 2
        train = dataclasses.replace(case.config.train, eval_batch_size=size)
        price = "evaluations in more passes"
        changed = dataclasses.replace(case.config, train=train)
        yield case.changed([f"train.eval_batch_size={size}"], price, config=changed)


def _smaller_batches(case: Case) -> Iterator[Case]:
    train = case.config.train
    size, passes = train.batch_size, train.gradient_accumulation_steps
    ranks = train.ranks or 1
    while size % (2 * ranks) == 0:
        size, passes = size // 2, passes * 2
        changed = dataclasses.replace(train, batch_size=size, gradient_accumulation_steps=passes)
        settings = [f"train.batch_size={size}", f"train.gradient_accumulation_steps={passes}"]
        price = "as many examples a step, in more passes"
        yield case.changed(settings, price, config=dataclasses.replace(case.config, train=changed))


def _checkpointing(case: Case) -> Iterator[Case]:
    if not case.config.train.gradient_checkpointing:
        train = dataclasses.replace(case.config.train, gradient_checkpointing=True)
        price = "activations are computed twice"
        changed = dataclasses.replace(case.config, train=train)
        yield case.changed(["train.gradient_checkpointing=true"], price, config=changed)


def _half_precision(case: Case) -> Iterator[Case]:
    config = case.config
    if config.model.dtype in ("auto", "float32") and config.model.quantization == "none":
        model = dataclasses.replace(config.model, dtype="bfloat16")
        price = "steps that are too small for it change no weight" if config.lora.is_full else "weights are rounded"
        yield _with_model(case, model, "model.dtype=bfloat16", price)


def _with_model(case: Case, model: ModelConf, setting: str, price: str) -> Case:
    """The case with its base held otherwise: sizes that were counted with it are not those of the other one."""
    found = dataclasses.replace(case.found, trained={})
    return case.changed([setting], price, config=dataclasses.replace(case.config, model=model), found=found)


def _quantized(name: str, bits: int) -> Step:
    def step(case: Case) -> Iterator[Case]:
        held = {"none": 16, "int8": 8, "nf4": 4}[case.config.model.quantization]
        if bits < held and not case.config.lora.is_full:
            model = dataclasses.replace(case.config.model, quantization=name)
            price = f"the base is rounded to {bits} bits, and slower (bitsandbytes)"
            yield _with_model(case, model, f"model.quantization={name}", price)

    return step


def _shorter_rows(case: Case) -> Iterator[Case]:
    """Rows that are cut, to a half of ``data.max_length``, a quarter and so on."""
    tokens, length = case.found.rows[0].tokens, case.config.data.max_length // 2
    while length and (cut := sum(count > length for count in tokens) / len(tokens)) <= MOST_CUT:
        if cut:
            data = dataclasses.replace(case.config.data, max_length=length)
            found = dataclasses.replace(case.found, rows=tuple(_cut(each, length) for each in case.found.rows))
            price = f"{cut:.0%} of the rows are cut"
            config = dataclasses.replace(case.config, data=data)
            yield case.changed([f"data.max_length={length}"], price, config=config, found=found)
        length //= 2


def _cut(rows: RowSizes, length: int) -> RowSizes:
    tokens, labelled = (tuple(min(each, length) for each in sizes) for sizes in (rows.tokens, rows.labelled))
    return dataclasses.replace(rows, tokens=tokens, labelled=labelled)


def _no_gate(case: Case) -> Iterator[Case]:
    if case.config.verify.enabled:
        verify = dataclasses.replace(case.config.verify, enabled=False)
        price = "the merged model is not compared with the adapter"
        yield case.changed(["verify.enabled=false"], price, config=dataclasses.replace(case.config, verify=verify))


_NEVER_WORSE = (_smaller_evaluations, _smaller_batches, _shorter_rows, _no_gate)
"""What never needs more memory, whatever else is changed. Another precision may: a CPU maps a file of the old one."""
