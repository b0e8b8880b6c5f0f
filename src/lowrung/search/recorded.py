"""A study as its database has it, read without changing anything: its coordinator may be at work."""

import dataclasses
import datetime
import functools
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, create_engine, select
from sqlalchemy.exc import SQLAlchemyError

from lowrung.errors import StoreError, first_line
from lowrung.search import lease, scope, tables
from lowrung.search.axes import Axis, Choice, Interval, Params
from lowrung.search.study import CLOCK, RUN
from lowrung.store import addresses

_WAIT_SECONDS = 20
"""How long a read waits for a database that is locked: its coordinator holds it for milliseconds."""

_T = TypeVar("_T")

RUNNING, COMPLETE, PRUNED = "RUNNING", "COMPLETE", "PRUNED"
"""Optuna's states of a trial that matter here."""


@dataclasses.dataclass(frozen=True, slots=True)
class RecordedTrial:
    """A trial.

    Attributes:
        number: the trial's.
        state: Optuna's, in capitals.
        params: values by key.
        facts: what lowrung noted on it.
        values: of the objectives, in their order; none of a trial that is not complete.
        started: in seconds since 1970; None where it is not known.
        ended: likewise.
    """

    number: int
    state: str
    params: Params
    facts: Mapping[str, Any]
    values: Sequence[float]
    started: float | None
    ended: float | None

    @property
    def runs(self) -> dict[int, Mapping[str, Any]]:
        """What was noted on its runs, by seed."""
        return {int(name.removeprefix(RUN)): known for name, known in self.facts.items() if name.startswith(RUN)}

    @property
    def stage(self) -> str:
        """The name of the stage that it was asked for; empty where the sweep has none."""
        return str(self.facts.get(scope.STAGE, ""))


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A study.

    Attributes:
        facts: what lowrung noted on it, such as its ``purpose``.
        trials: by number.
        axes: what each key was drawn from, over all trials; a list of one value is no axis, and here too.
        is_alive: whether a coordinator has it; None where that is on another machine, or is not known.
        coordinator: the record of it; ``null`` where none has it. See `lowrung.search.lease.Holder`.
    """

    facts: Mapping[str, Any]
    trials: Sequence[RecordedTrial]
    axes: Sequence[Axis]
    is_alive: bool | None
    coordinator: str = "null"


def read(address: str, name: str) -> Recorded | None:
    """The study of this name in a database; None where it has none.

    Args:
        address: the database's.
        name: the study's.

    Raises:
        StoreError: when the database does not open, or is none of Optuna's.
    """
    return _reading(address, lambda connection: _read(connection, name))


def coordinator(address: str, name: str) -> str:
    """The record of a study's coordinator, as it is now; see `Recorded.coordinator`.

    Raises:
        StoreError: when the database does not open, or is none of Optuna's.
    """

    def find(connection: Connection) -> str:
        study = _id(connection, name)
        return "null" if study is None else _coordinator(connection, study)

    return _reading(address, find)


def _reading(address: str, read: Callable[[Connection], _T]) -> _T:
    try:
        engine = _engine(address)
    except (ImportError, SQLAlchemyError, ValueError) as error:
        raise _unread(address, error) from error
    try:
        with engine.connect() as connection:
            return read(connection)
    except (SQLAlchemyError, ValueError, KeyError, TypeError) as error:
        raise _unread(address, error) from error
    finally:
        engine.dispose()


def _engine(address: str) -> Engine:
    """Opens a SQLite file for reading alone: it is neither made nor changed, and may lie where nobody can write."""
    file = addresses.sqlite_path(address)
    if file is None:
        return create_engine(address)
    return create_engine(
        f"sqlite:///file:{quote(str(file.absolute()))}?mode=ro&uri=true", connect_args={"timeout": _WAIT_SECONDS}
    )


def _unread(address: str, error: Exception) -> StoreError:
    file = addresses.sqlite_path(address)
    which = f"this {address.partition('://')[0]} database" if file is None else str(file)
    said = first_line(getattr(error, "orig", None) or error)
    return StoreError(f"{which} must be a database of Optuna's that can be read, but is not ({said}).")


def _read(connection: Connection, name: str) -> Recorded | None:
    study = _id(connection, name)
    if study is None:
        return None
    facts = connection.execute(
        select(tables.STUDY_USER_ATTRS.c.key, tables.STUDY_USER_ATTRS.c.value_json).filter_by(study_id=study)
    )
    holder = _coordinator(connection, study)
    params, searched = _params(connection, study)
    known = {str(key): json.loads(text) for key, text in facts}
    return Recorded(
        known,
        list(_trials(connection, study, params, known.get(CLOCK) or {})),
        [_axis(key, distribution) for key, distribution in searched.items()],
        lease.is_alive(holder),
        holder,
    )


def _id(connection: Connection, name: str) -> int | None:
    return connection.execute(select(tables.STUDIES.c.study_id).where(tables.STUDIES.c.study_name == name)).scalar()


def _coordinator(connection: Connection, study: int) -> str:
    found = select(tables.STUDY_SYSTEM_ATTRS.c.value_json).filter_by(study_id=study, key=lease.KEY)
    return str(connection.execute(found).scalar() or "null")


def _trials(
    connection: Connection, study: int, params: Mapping[int, Params], clocks: Mapping[str, int]
) -> Iterator[RecordedTrial]:
    facts: defaultdict[int, dict[str, Any]] = defaultdict(dict)
    for trial, key, text in connection.execute(_of(study, tables.USER_ATTRS, "key", "value_json")):
        facts[trial][str(key)] = json.loads(text)
    values: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for trial, objective, value, kind in connection.execute(
        _of(study, tables.VALUES, "objective", "value", "value_type")
    ):
        is_nan = value is None and kind == models.TrialValueModel.TrialValueType.FINITE  # SQLite makes NULL of NaN
        values[trial][objective] = math.nan if is_nan else models.TrialValueModel.stored_repr_to_value(value, kind)
    columns = (tables.TRIALS.c[name] for name in ("trial_id", "number", "state", "datetime_start", "datetime_complete"))
    for trial, number, state, start, end in connection.execute(
        select(*columns).where(tables.TRIALS.c.study_id == study).order_by(tables.TRIALS.c.number)
    ):
        each = values.get(trial, {})
        offset = next((clock for first, clock in reversed(list(clocks.items())) if int(first) <= number), None)
        yield RecordedTrial(
            number,
            state.name,
            params.get(trial, {}),
            facts.get(trial, {}),
            [each[i] for i in sorted(each)],
            _seconds(start, offset),
            _seconds(end, offset),
        )


def _params(connection: Connection, study: int) -> tuple[dict[int, Params], dict[str, BaseDistribution]]:
    found: defaultdict[int, Params] = defaultdict(dict)
    searched: dict[str, BaseDistribution] = {}
    for trial, key, value, text in connection.execute(
        _of(study, tables.PARAMS, "param_name", "param_value", "distribution_json")
    ):
        distribution = _distribution(text)
        found[trial][key] = distribution.to_external_repr(value)
        before = searched.get(key)
        searched[key] = distribution if before is None or before is distribution else _joined(before, distribution)
    return found, searched


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    """A distribution; the trials of a study share a few."""
    return json_to_distribution(text)


def _joined(one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    """What holds both: a stage's or a space's interval may be another's part."""
    if isinstance(one, FloatDistribution) and isinstance(other, FloatDistribution):
        return FloatDistribution(min(one.low, other.low), max(one.high, other.high), log=one.log)
    if isinstance(one, IntDistribution) and isinstance(other, IntDistribution):
        return IntDistribution(min(one.low, other.low), max(one.high, other.high), log=one.log)
    if isinstance(one, CategoricalDistribution) and isinstance(other, CategoricalDistribution):
        return CategoricalDistribution(tuple(dict.fromkeys([*one.choices, *other.choices])))
    return one


def _axis(key: str, distribution: BaseDistribution) -> Axis:
    if isinstance(distribution, CategoricalDistribution):
        return Choice(key, distribution.choices, tuple(map(str, distribution.choices)))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    is_integer = isinstance(distribution, IntDistribution)
    return Interval(key, distribution.low, distribution.high, distribution.log, is_integer)


def _of(study: int, table: Any, *names: str) -> Any:
    """Columns of a table with a row for each of a study's trials, after the trial's id."""
    columns = [table.c[name] for name in ("trial_id", *names)]
    joined = table.join(tables.TRIALS, table.c.trial_id == tables.TRIALS.c.trial_id)
    return select(*columns).select_from(joined).where(tables.TRIALS.c.study_id == study)


def _seconds(moment: datetime.datetime | None, offset: int | None) -> float | None:
    """Optuna writes local times without their zone; where none was noted it is taken for this machine's."""
    if moment is None:
        return None
    zone = None if offset is None else datetime.timezone(datetime.timedelta(seconds=offset))
    return moment.replace(tzinfo=zone).timestamp()
