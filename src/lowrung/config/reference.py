"""docs/configuration.md, made from the schema's docstrings, conf/ and Hydra's own node: ``make docs``."""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from lowrung.config import schema, structured
from lowrung.config.schema import Config
from lowrung.store import atomic
from lowrung.store.layout import ROOT

PAGE = ROOT / "docs" / "configuration.md"
"""The page that is written."""

_HEAD = """\
# Configuration

<!-- Made by `make docs` from the schema's docstrings and the comments in conf/: change those, not this file. -->

Every setting is an override on the command line: `python src/train.py lora=rslora lora.r=16`. A group's choice, such as
`lora=rslora`, is a file in [conf/](../conf) and sets several of its settings at once. Defaults are those of the groups'
default choices; — is none.
"""
_NONE = "—"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of the page.

    Attributes:
        key: dotted, as on the command line.
        kind: its type, in words.
        default: as YAML; — where there is none.
        text: what its dataclass says of it, as Markdown.
    """

    key: str
    kind: str
    default: str
    text: str


def page() -> str:
    """The whole page, as it should be now."""
    structured.register()
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", return_hydra_config=True)
    sections = [_HEAD, *_groups(composed), _root(composed)]
    for name in ("hydra.sweeper", "hydra.launcher"):
        node = OmegaConf.select(composed, name)
        kind = OmegaConf.get_type(node)
        assert kind is not None
        sections.append(f"## {name}\n\n{summary(kind)}\n\n{_table(settings(kind, _values(node), f'{name}.'))}")
    hydra = ConfigStore.instance().repo["hydra"]
    for name in ("ray", "slurm"):
        sections.append(_choice("hydra/launcher", name, hydra["launcher"][f"{name}.yaml"].node))
    sections += [_parts(part) for part in ("sampler", "pruner")]
    return "\n".join(sections)


def _parts(part: str) -> str:
    """The choices of a group below ``hydra/sweeper``, each with settings of its own."""
    choices = ConfigStore.instance().repo["hydra"]["sweeper"][part]
    sections = [f"## hydra.sweeper.{part}\n"]
    sections += [
        _choice(f"hydra/sweeper/{part}", file.removesuffix(".yaml"), entry.node) for file, entry in choices.items()
    ]
    return "\n".join(sections)


def _choice(group: str, name: str, node: Any) -> str:
    """A choice of a group, with its settings."""
    kind = OmegaConf.get_type(node)
    assert kind is not None
    table = _table(settings(kind, _values(node), f"{group.replace('/', '.')}."))
    return f"### {group}={name}\n\n{summary(kind)}\n\n{table}"


def settings(kind: Any, values: Mapping[str, Any], prefix: str = "") -> Iterator[Setting]:
    """A dataclass's settings in their order.

    Args:
        kind: a config dataclass.
        values: its composed values, by field.
        prefix: what goes before the names of the fields.
    """
    texts, hints = attributes(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name.startswith("_") or field.name == "defaults":  # Hydra's, not the user's
            continue
        hint, value, key = hints[field.name], values.get(field.name), prefix + field.name
        text = texts.get(field.name, "")
        inner = _kind_by_dtype(hint)
        if inner is None:
            yield Setting(key, kind_name(hint), _yaml(value), text)
        else:
            yield Setting(key, kind_name(hint), "below", f"{text} {summary(inner)}")
            yield from _settings_by_dtype(inner, value or {}, f"{key}.<dtype>.")


def _settings_by_dtype(kind: Any, values: Mapping[str, Mapping[str, Any]], prefix: str) -> Iterator[Setting]:
    """The settings of a dataclass that there is one of for each dtype."""
    for setting in settings(kind, {}, prefix):
        field = setting.key.rsplit(".", 1)[-1]
        defaults = [f"{dtype} {_yaml(entry.get(field))}" for dtype, entry in values.items()]
        yield dataclasses.replace(setting, default=", ".join(defaults) or _NONE)


def _kind_by_dtype(hint: Any) -> Any:
    """The dataclass that a dict's values are of, or None."""
    inner = typing.get_args(hint)[-1:] if typing.get_origin(hint) is dict else ()
    return inner[0] if inner and dataclasses.is_dataclass(inner[0]) else None


# -- what the code says ------------------------------------------------------------------------------------------------


def attributes(kind: type) -> dict[str, str]:
    """The texts of a dataclass's fields, from its docstring or that of the class that a field comes from."""
    texts: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        section = _docstring(parent).partition("\nAttributes:\n")[2]
        section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]
        for name, text in re.findall(r"^    (\w+): (.*(?:\n(?:     .*)?)*)", section, re.MULTILINE):
            texts[name] = _markdown(text)
    return texts


def summary(kind: type) -> str:
    """What a dataclass's docstring says before its fields."""
    return _markdown(_docstring(kind).partition("\nAttributes:\n")[0])


def _docstring(kind: type) -> str:
    return inspect.cleandoc(vars(kind).get("__doc__") or "")


def _markdown(text: str) -> str:
    """Docstring text as one line of Markdown: constants as their values, papers as links."""
    text = " ".join(text.split()).replace("``", "`")
    text = re.sub(r"`([A-Z_]+)`", _constant, text)
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _constant(match: re.Match[str]) -> str:
    """What a constant of the schema stands for: "`DTYPES`" says nothing to those who do not read the code."""
    values = getattr(schema, match.group(1), None)
    return ", ".join(f"`{value}`" for value in values) if isinstance(values, tuple) else match.group(0)


def kind_name(hint: Any) -> str:
    """A type as users of YAML know it: ``int or null``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return "any"
    if hint is type(None):
        return "null"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(kind_name(one) for one in inner)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(kind_name(one) for one in inner)}]"
    return str(hint.__name__).removesuffix("Conf").lower()


# -- what conf/ says ---------------------------------------------------------------------------------------------------


def _groups(composed: DictConfig) -> Iterator[str]:
    hints = typing.get_type_hints(Config)
    for group in (field.name for field in dataclasses.fields(Config)):
        if dataclasses.is_dataclass(hints[group]):
            kind = hints[group]
            table = _table(settings(kind, _values(composed[group]), f"{group}."))
            default = composed.hydra.runtime.choices[group]
            yield f"## {group}\n\n{summary(kind)}\n\n{_choices(group, default)}\n\n{table}"


def _root(composed: DictConfig) -> str:
    values = {str(name): value for name, value in composed.items() if not OmegaConf.is_dict(value)}
    rows = [row for row in settings(Config, values) if row.key in values]
    return f"## Root keys\n\n{_table(rows)}"


def _choices(group: str, default: str) -> str:
    """The files of a group, the default first, each with what it says of itself."""
    files = sorted((ROOT / "conf" / group).glob("*.yaml"), key=lambda path: (path.stem != default, path.stem))
    lines = [
        f"- `{group}={path.stem}`{' (the default)' if path.stem == default else ''}: {comment(path)}" for path in files
    ]
    return "\n".join(lines)


def comment(path: Path) -> str:
    """The comment that a YAML file starts with, as one line of Markdown; commands in it are indented."""
    lines = path.read_text(encoding="utf-8").splitlines()
    count = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    texts = (line.removeprefix("#").removeprefix(" ") for line in lines[:count])
    return _markdown(" ".join(f"`{text.strip()}`" if text.startswith("  ") else text for text in texts))


def _values(node: Any) -> dict[str, Any]:
    values = OmegaConf.to_container(node, resolve=True)
    assert isinstance(values, dict)
    return {str(name): value for name, value in values.items()}


def _yaml(value: Any) -> str:
    if value == "???":
        return _NONE
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _table(rows: Iterator[Setting] | Sequence[Setting]) -> str:
    lines = ["| setting | type | default | |", "|---|---|---|---|"]
    for row in rows:
        cells = (f"`{row.key}`", row.kind, row.default, row.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the page."""
    atomic.write_text(PAGE, page())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
