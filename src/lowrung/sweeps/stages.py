"""The stages of a sweep as they were asked for, each with the overrides of its spaces; a sweep without has one."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lowrung.config import presets
from lowrung.errors import UsageError, did_you_mean
from lowrung.sweeps import typed as typed_overrides
from lowrung.sweeps.stage import BEST, TIES, Stage

_FIELDS = ("name", "of", "start", "params", "spaces", "n_trials", "prune")

_STAGES = "hydra.sweeper.stages"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        stages: in order, at least one.
        problems: what is wrong with how they were written.
    """

    stages: Sequence[Stage]
    problems: Sequence[str]


def read(written: Mapping[str, Any], resolved: Mapping[str, Any], typed: Sequence[str]) -> Asked:
    """Reads the stages of a sweep.

    What was typed takes precedence. A single value holds in all stages and spaces. Several values take the place of the
    values that a stage searches the key over; where none does, they are an axis of the first stage, which all others
    start from.

    Args:
        written: the fields of ``hydra.sweeper`` as they were written.
        resolved: the same with interpolations resolved.
        typed: overrides of the command line.

    Raises:
        UsageError: when ``params`` cannot be written as overrides.
    """
    common = presets.overrides(written["params"], resolved["params"])
    if written.get("stages") is None:
        reader = _Reader("hydra.sweeper")
        spaces = reader.spaces(written.get("spaces"), resolved.get("spaces"))
        stage = Stage(tuple((*common, *space, *typed) for space in spaces), n_trials=resolved.get("n_trials"))
        return Asked([stage], reader.problems)
    problems = []
    for name in ("spaces", "n_trials"):
        if written.get(name) is not None:
            problems.append(f"hydra.sweeper.{name} must be given in each stage where there are stages. Move it there.")
    stages, found = _stages(written["stages"], resolved["stages"])
    if not stages:
        return Asked([Stage(((*common, *typed),))], [*problems, *found])
    return Asked(typed_overrides.stages(stages, common, typed), [*problems, *found])


class _Reader:
    """Reads what lies below one node of the config, and collects what is wrong with it."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def spaces(self, written: Any, resolved: Any) -> list[tuple[str, ...]]:
        """The overrides of each space; one of none where none were given."""
        where = f"{self.where}.spaces"
        if written is None:
            return [()]
        if not isinstance(written, list) or not written:
            self.problems.append(
                f"{where} must be a list of at least one dict of overrides, but is {written!r}. Write"
                ' [{lora: full}, {lora: default, lora.r: "8,16"}], say, or leave it out.'
            )
            return [()]
        made = [self.params(f"{where}[{i}]", *pair) for i, pair in enumerate(zip(written, resolved, strict=True))]
        for i, space in enumerate(made):
            first = made.index(space)
            if space and first < i:
                self.problems.append(f"{where}[{i}] is the same space as {where}[{first}]. Leave one of them out.")
            if any(typed_overrides.key_of(text) == "seed" for text in space):
                self.problems.append(
                    f"{where}[{i}].seed must be the same for all spaces, since their trials are compared. Give it in"
                    " params, or on the command line."
                )
        return made

    def params(self, where: str, written: Any, resolved: Any) -> tuple[str, ...]:
        """The overrides of a dict."""
        if not isinstance(written, Mapping) or not written:
            self.problems.append(
                f"{where} must be a dict of overrides, such as {{lora.r: 8}}, but is"
                f" {'empty' if written in ({}, None) else repr(written)}."
            )
            return ()
        try:
            texts = tuple(presets.overrides(written, resolved, where))
        except UsageError as error:
            self.problems += error.problems
            return ()
        self.problems += [problem for text in texts for problem in _key_problems(where, text)]
        return texts


def _key_problems(where: str, text: str) -> Iterator[str]:
    """Keys that belong to a sweep as a whole, or that no trial could be known by."""
    key = typed_overrides.key_of(text)
    if key in ("study", "sweeps") or key.startswith(("hydra.", "hydra/")):
        yield f"{where}.{key} must be left out: it is the same for a whole sweep. Set it beside hydra.sweeper."
    if text.startswith("~"):
        yield f"{where} must give values, but deletes {key}. Delete it on the command line, for the whole sweep."


def _stages(written: Any, resolved: Any) -> tuple[list[Stage], list[str]]:
    """The stages by themselves, and what is wrong with them."""
    if not isinstance(written, list) or not written:
        return [], [
            f"{_STAGES} must be a list of at least one dict, but is {written!r}. Write"
            ' [{name: rates, params: {train.learning_rate: "1e-4,1e-3"}}, {name: ranks, params: {lora.r: "4,16"}}],'
            " say, or leave it out."
        ]
    stages: list[Stage] = []
    problems: list[str] = []
    names = [one.get("name") if isinstance(one, Mapping) else None for one in written]
    for i, (one, its_values) in enumerate(zip(written, resolved, strict=True)):
        where = f"{_STAGES}[{i}]"
        if not isinstance(one, Mapping):
            problems.append(f"{where} must be a dict of {', '.join(_FIELDS)}, but is {one!r}.")
            continue
        reader = _Reader(where)
        reader.problems += _field_problems(where, one, its_values, names, i)
        params = reader.params(f"{where}.params", one["params"], its_values["params"]) if "params" in one else ()
        spaces = reader.spaces(one.get("spaces"), its_values.get("spaces"))
        if i and not params and spaces == [()] and not reader.problems:
            reader.problems.append(
                f"{where} must change something of what it starts from, but has neither params nor spaces."
            )
        problems += reader.problems
        stages.append(_stage(its_values, tuple((*params, *space) for space in spaces), names, i))
    return stages, problems


def _stage(values: Mapping[str, Any], spaces: tuple[tuple[str, ...], ...], names: Sequence[Any], i: int) -> Stage:
    """A stage; a field that is wrong has its default."""
    of = values.get("of", names[i - 1] if i else "")
    start, n_trials, prune = values.get("start", BEST), values.get("n_trials"), values.get("prune", True)
    return Stage(
        spaces,
        name=str(names[i]),
        of=str(of if of in names[:i] else names[0]) if i else "",
        start=start if _is_start(start) else BEST,
        n_trials=n_trials if isinstance(n_trials, int) else None,
        prune=prune is not False,
    )


def _is_start(start: Any) -> bool:
    return start in (BEST, TIES) or (isinstance(start, int) and not isinstance(start, bool) and start >= 1)


def _field_problems(
    where: str, written: Mapping[str, Any], values: Mapping[str, Any], names: Sequence[Any], i: int
) -> Iterator[str]:
    """What is wrong with a stage's fields, but for its overrides."""
    for field in written:
        if field not in _FIELDS:
            yield f"{where} has no {field!r}: a stage has {', '.join(_FIELDS)}.{did_you_mean(str(field), _FIELDS)}"
    name = names[i]
    if not isinstance(name, str) or not name.strip():
        yield f"{where}.name must be a text that names the stage, but is {name!r}."
    elif name in names[:i]:
        yield f"{where}.name must be a stage's own, but {name!r} is that of {_STAGES}[{names.index(name)}] too."
    n_trials = values.get("n_trials")
    if n_trials is not None and (not isinstance(n_trials, int) or isinstance(n_trials, bool)):
        yield f"{where}.n_trials must be a whole number, but is {n_trials!r}."
    if not isinstance(values.get("prune", True), bool):
        yield f"{where}.prune must be true or false, but is {values['prune']!r}."
    if i == 0:
        yield from (
            f"{where}.{field} must be left out: the first stage starts from the overrides that all have in common."
            for field in ("of", "start")
            if field in written
        )
        return
    if "of" in values and values["of"] not in names[:i]:
        of, earlier = values["of"], ", ".join(map(str, names[:i]))
        which = "the stage itself" if of == name else "a later stage" if of in names[i:] else "no stage"
        yield f"{where}.of must name an earlier stage ({earlier}), but {of!r} is {which}."
    if not _is_start(values.get("start", BEST)):
        yield (
            f"{where}.start must be best, ties or a number of trials, at least 1, but is {values['start']!r}. best is"
            " the best trial of the stage that it starts from, 3 its best three, ties all that tie with its best."
        )
