"""A study in memory, beside its records in the database: each change goes to both, and what is read comes from memory.

A study has one coordinator at a time (`lowrung.search.lease`), so the database holds what this process found and wrote.
Optuna's own storage reads all trials that have not ended before each draw and each report, and writes each value in a
transaction of its own: a third of the coordinator's time.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import InMemoryStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, delete, insert, select, update

from lowrung.errors import StoreError
from lowrung.search import tables
from lowrung.search.storage import Storage

_Write = Callable[[Connection], None]


class Mirror(InMemoryStorage):
    """The one study of a coordinator. Here its trials have their numbers as ids.

    Args:
        database: where the study is.
        study_id: the database's id of it.

    Raises:
        StoreError: when the database does not take a change (see `Storage`), or trials or the study are gone.
    """

    def __init__(self, database: Storage, study_id: int) -> None:
        super().__init__()
        self._database = database
        self._study_id = study_id
        self._ids: list[int] = []
        """The database's ids of the trials, by number."""
        self._held: list[_Write] | None = None
        self._load()

    def _load(self) -> None:
        database, study_id = self._database, self._study_id
        here = super().create_new_study(
            database.get_study_directions(study_id), database.get_study_name_from_id(study_id)
        )
        for key, value in database.get_study_user_attrs(study_id).items():
            super().set_study_user_attr(here, key, value)
        for key, value in database.get_study_system_attrs(study_id).items():
            super().set_study_system_attr(here, key, value)
        for expected, trial in enumerate(database.get_all_trials(study_id, deepcopy=False)):
            if trial.number != expected:
                raise StoreError(
                    f"A study must have all its trials, but {self.get_study_name_from_id(here)!r} lacks trial"
                    f" {expected}. Choose another name, or add hydra.sweeper.fresh=true."
                )
            self._ids.append(trial._trial_id)
            super().create_new_trial(here, trial)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Makes what the block changes one transaction, at its end: a process that is killed leaves all or nothing."""
        self._database.call(lambda: None)  # raises where it was lost: nothing is to change here alone
        self._held = []
        try:
            yield
            held = self._held
        finally:
            self._held = None
        self._commit(held)

    def _write(self, *writes: _Write) -> None:
        if self._held is None:
            self._commit(writes)
        else:
            self._held.extend(writes)

    def _commit(self, writes: Sequence[_Write]) -> None:
        def transact() -> None:
            with self._database.engine.begin() as connection:
                for write in writes:
                    write(connection)

        self._database.call(transact)

    # -- the study -----------------------------------------------------------------------------------------------------

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See Optuna's `BaseStorage`, as for all that follow."""
        self._database.set_study_user_attr(self._study_id, key, value)
        super().set_study_user_attr(study_id, key, _as_read(value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Samplers note on the study how far they have drawn."""
        self._database.set_study_system_attr(self._study_id, key, value)
        super().set_study_system_attr(study_id, key, _as_read(value))

    # -- trials --------------------------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """A trial that runs."""
        if template_trial is not None:
            raise NotImplementedError("A coordinator's trials begin without values.")
        number = super().create_new_trial(study_id)
        self._write(self._creation(self.get_trial(number)))
        return number

    def _creation(self, trial: FrozenTrial) -> _Write:
        def write(connection: Connection) -> None:
            if (
                connection.execute(select(tables.STUDIES).where(tables.STUDIES.c.study_id == self._study_id)).first()
                is None
            ):
                raise StoreError("The study must stay where it is, but was deleted while it ran.")
            key = {"study_id": self._study_id, "number": trial.number}
            found = select(tables.TRIALS.c.trial_id).where(*_are(tables.TRIALS, key))
            known = connection.execute(found).scalar()  # of a try whose answer was lost
            if known is None:
                values = {"state": trial.state, "datetime_start": trial.datetime_start}
                made: Any = connection.execute(insert(tables.TRIALS).values(**key, **values)).inserted_primary_key
                (known,) = made
            self._ids[trial.number :] = [int(known)]

        return write

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """One of the values that were drawn."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        values = {"param_value": param_value_internal, "distribution_json": distribution_to_json(distribution)}
        self._put(tables.PARAMS, trial_id, {"param_name": param_name}, values)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """How a trial ended."""
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        for objective, value in enumerate(values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            self._put(tables.VALUES, trial_id, {"objective": objective}, {"value": stored, "value_type": kind})
        trial = self.get_trial(trial_id)

        def write(connection: Connection) -> None:
            changed = update(tables.TRIALS).where(tables.TRIALS.c.trial_id == self._ids[trial_id])
            times = {"datetime_start": trial.datetime_start, "datetime_complete": trial.datetime_complete}
            if connection.execute(changed.values(state=trial.state, **times)).rowcount == 0:
                raise StoreError(f"The study must keep its trials, but trial {trial.number} was deleted while it ran.")

        self._write(write)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """A report."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(intermediate_value)
        values = {"intermediate_value": stored, "intermediate_value_type": kind}
        self._put(tables.REPORTS, trial_id, {"step": step}, values)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """A note of lowrung's."""
        super().set_trial_user_attr(trial_id, key, _as_read(value))
        self._put(tables.USER_ATTRS, trial_id, {"key": key}, {"value_json": json.dumps(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """A note of Optuna's."""
        super().set_trial_system_attr(trial_id, key, _as_read(value))
        self._put(tables.SYSTEM_ATTRS, trial_id, {"key": key}, {"value_json": json.dumps(value)})

    def _put(self, table: Any, number: int, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """Writes a row in place of the one of the same key: the same again, where the answer to a try was lost."""

        def write(connection: Connection) -> None:
            whole = {"trial_id": self._ids[number], **key}
            connection.execute(delete(table).where(*_are(table, whole)))
            connection.execute(insert(table).values(**whole, **values))

        self._write(write)


def _are(table: Any, values: Mapping[str, Any]) -> list[Any]:
    return [table.c[name] == value for name, value in values.items()]


def _as_read(value: Any) -> Any:
    """A value as the next coordinator will read it."""
    return json.loads(json.dumps(value))
