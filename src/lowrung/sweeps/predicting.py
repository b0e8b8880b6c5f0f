"""What runs are predicted to take, also those whose sizes the preflight has not counted."""

import dataclasses
from collections.abc import Mapping, Sequence

from lowrung.config import schema, signature
from lowrung.config.schema import Config, LoraConf, ModelConf, TrainConf
from lowrung.costs import prediction, sizes
from lowrung.costs.prediction import Prediction, Speed
from lowrung.costs.sizes import TrainedSizes
from lowrung.engine.assumed import MACHINE
from lowrung.engine.base import Engine
from lowrung.finetune.found import Preflight
from lowrung.runs import inputs, planned
from lowrung.sweeps import preflight
from lowrung.sweeps.plan import Plan


class Predictor:
    """Predicts the runs of a sweep.

    Args:
        plan: the sweep's.
        engine: that would run it; it counts sizes that are not known.
        gpus: of each run, where there are any.
    """

    def __init__(self, plan: Plan, engine: Engine, gpus: float) -> None:
        self._plan = plan
        self._engine = engine
        self._gpus = gpus
        self._known: dict[str, Prediction | None] = {}
        self._counted: dict[str, Mapping[str, Mapping[int, TrainedSizes]]] = {}

    @property
    def guesses(self) -> list[str]:
        """What was not known of any run, each with what was taken in its place."""
        return list(dict.fromkeys(guess for found in self._known.values() if found for guess in found.guesses))

    def of(self, config: Config) -> Prediction | None:
        """What a run of the sweep will take, with the memory that it must find on its device; see `whole`."""
        return _that_must_fit(self.whole(config))

    def whole(self, config: Config) -> Prediction | None:
        """What a run of the sweep will take; None where nothing is known of its base, or nothing can be counted."""
        train = dataclasses.replace(config.train, learning_rate=None, rate_factor=1.0)  # no cost depends on it
        key = schema.digest([config.model, config.data, config.lora, train, config.verify])
        if key not in self._known:
            self._known[key] = self._predicted(config, self._plan.preflight(config))
        return self._known[key]

    def with_found(self, config: Config, found: Preflight) -> Prediction | None:
        """What a run will take, of whose model and data this was found, with the memory that it must find."""
        return _that_must_fit(self._predicted(config, found))

    def _predicted(self, config: Config, found: Preflight) -> Prediction | None:
        config = inputs.with_ranks(config, self._gpus)
        if found.base is None:
            return None
        if planned.asked(config, found, self._engine.threads) is None:
            found = self._with_sizes(config, found)
        machine = MACHINE.get()
        if machine is None:
            return planned.predict(config, found, self._engine.threads, is_elsewhere=self._plan.is_elsewhere)
        asked = planned.asked(config, found, self._engine.threads)
        if asked is None:
            return None
        speed = Speed.unmeasured(asked, machine.flops_per_second or 1.0, "hydra.sweeper.plan_for.tflops")
        return prediction.predict(asked, speed)

    def _with_sizes(self, config: Config, found: Preflight) -> Preflight:
        """The same, with the sizes of this run's adapter, which are counted in a process of their own.

        They are those with and without gradient checkpointing: both follow from one pass, which takes 1 s.
        """
        model = sizes.counted_model(config.model)
        ways = [dataclasses.replace(config.train, gradient_checkpointing=again) for again in (False, True)]
        asked = _Counting(model, config.lora, ways, signature.device_kind())
        key = schema.digest([model, sizes.sized_key(config.lora), config.lora.r])
        if key not in self._counted:
            self._counted[key] = preflight.asked(self._engine, self._plan.folder, asked) or {}
        return dataclasses.replace(found, trained=self._counted[key])


@dataclasses.dataclass(frozen=True)
class _Counting:
    """Counts the sizes of an adapter, for a process that is to import what it needs first."""

    model: ModelConf
    lora: LoraConf
    trains: Sequence[TrainConf]
    device: str

    def __call__(self) -> Mapping[str, Mapping[int, TrainedSizes]]:
        from lowrung.finetune import sizes as counted
        from lowrung.finetune.models import pretrained

        base = pretrained.without_weights(self.model)  # a hub's are not fetched to be counted
        return counted.of_trained(base, [self.lora], self.trains, self.device)


def _that_must_fit(predicted: Prediction | None) -> Prediction | None:
    return predicted and predicted.that_must_fit(signature.device_kind())


def is_time_known() -> bool:
    """Whether a run's time can be predicted: of a machine that is assumed only where its speed was said."""
    machine = MACHINE.get()
    return machine is None or machine.flops_per_second is not None
