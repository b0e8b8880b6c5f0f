"""Hydra's and OmegaConf's refusals in words for people: the setting, the rule, the value and the remedy."""

import re
import shlex
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from lowrung.config import grammar, resolvers, schema
from lowrung.config.keys import declared, suggest_key
from lowrung.errors import did_you_mean

WHOLE = "a whole number"


def of_override(override: str, error: Exception, defaults: DictConfig) -> str:
    """Why an override cannot be composed.

    Args:
        override: one that has one value.
        error: what Hydra raised.
        defaults: the config without it.
    """
    key, _, value = override.lstrip("+~").partition("=")
    text = f"{error}\n{error.__cause__ or ''}"
    available = re.search(r"Available options in '(.*?)':\n((?:\t.*\n?)+)", text)
    if available:
        options = available.group(2).split()
        return f"{key} must be one of {', '.join(options)}, but is {value!r}.{did_you_mean(value, options)}"
    if "No match in the defaults list" in text and "/" not in key:
        return f"{key} is no group of the defaults. Write +{override} to add it, where it is a group of yours."
    if words := of_setting(error, override):
        return words
    is_known = "/" not in key and "@" not in key and OmegaConf.select(defaults, key) is not None
    is_refused = "is not in struct" in text or re.search(r"Key '.*' not in '", text) or "Could not override" in text
    if is_refused and not is_known:
        alike = [known for known in _leaves(defaults) if ("/" in known) == ("/" in key)]
        return f"{key} is not a setting.{suggest_key(key, alike)}"
    if is_known and "." in key and isinstance(OmegaConf.select(defaults, key), DictConfig):
        return f"{key} must be a mapping such as {{name:value}}, but is {value!r}."
    return f"`{override}` is refused: {first_line(error)}"


_FORMS = {"' to string: '": "one text", "is not a ListConfig": "a list such as [a,b]"}
"""What a setting must be where a list or a dict was given for a value, or a value for a list, by OmegaConf's words."""

_KINDS = {"Integer": WHOLE, "Float": "a number", "bool": "true or false", "Boolean": "true or false"}


def of_setting(error: Exception, override: str = "") -> str | None:
    """What is wrong with one setting, which the error names; None where it names none.

    Args:
        error: OmegaConf's, or Hydra's that quotes it.
        override: what was composed; a group's choice brings settings of its file.
    """
    key, _, value = override.lstrip("+~").partition("=")
    text = f"{error}\n{error.__cause__ or ''}"
    named = re.search(r"full_key: (\S+)", text)
    # a part of what was typed, as in `sweeper.n_trials`, or a group, is explained by what was typed
    if named is None or "/" in named.group(1) or key.startswith(f"{named.group(1)}."):
        return None
    name = named.group(1)
    is_inside = bool(override) and name != key and not name.startswith(f"{key}.")
    where = f", in {key}={value}," if is_inside else ""
    if re.search(r"Key '.*' (is )?not in ", text):
        if override.startswith("+") and name == key and text.startswith("In '"):
            return (
                f"{key}={value} must set settings of lowrung, but its file sets them below {name!r}, which is none."
                " Write `# @package _global_` as its first line."
            )
        if name == key:
            return None
        return f"{name}{where} is not a setting.{_meant(name)}"
    if kind := re.search(r"could not be converted to (\w+)|is not a valid (\w+)", text):
        wanted = kind.group(1) or kind.group(2)
        given = re.search(r"Value '(.*?)' (?:of type|could not|is not)", text)
        shown = given.group(1) if given and name != key else value
        if given and "${" in value and name == key:
            return f"{name} must be {_KINDS.get(wanted, wanted)}, but {value} is {given.group(1)!r}."
        several = "" if not is_inside or not re.search(r"[,\[(]", shown) else _in_params(name)
        return f"{name}{where} must be {_KINDS.get(wanted, wanted)}, but is {shown!r}.{several}"
    if "is not Optional" in text:
        return f"{name}{where} must have a value, but is null. Leave it out to keep its default."
    if form := next((form for said, form in _FORMS.items() if said in text), None):
        return f"{name}{where} must be {form}, but is {value!r}."
    if "issing mandatory value" in text:
        return f"{name}{where} must have a value, but has none. Write {name}=VALUE."
    is_interpolation = re.search("interpolation", text, re.IGNORECASE) is not None
    return f"{name}{where} cannot be resolved: {_reason(text)}" if is_interpolation else None


def _meant(name: str) -> str:
    """What was meant by a key that is none, as the end of a message."""
    known = list(declared(schema.Config))
    if name in known:  # as one word of a YAML file
        group, _, last = name.rpartition(".")
        return f" A file nests it: `{group}: {{{last}: VALUE}}`.{_in_params(name)}"
    is_in_a_dict = any(name.startswith(f"{key}.") for key in known)
    return "" if is_in_a_dict else suggest_key(name, known)


def _in_params(name: str) -> str:
    return f" The values of a sweep go below hydra.sweeper.params, as `{name}: 2,4`."


def _reason(text: str) -> str:
    """What OmegaConf says of a value, in one sentence."""
    lines = text.strip().splitlines()
    if absent := re.search(r"Interpolation key '(.*?)' not found", text):
        return _no_such_key(absent.group(1))
    if unknown := re.search(r"Unsupported interpolation type (\S+)", text):
        kind = unknown.group(1).rstrip("'\".")
        known = [*resolvers.RESOLVERS, "oc.env", "oc.decode", "oc.select", "now", "hydra"]
        return f"there is no ${{{kind}:...}}, but there are {', '.join(known)}.{did_you_mean(kind, known)}"
    line = lines[1] if lines[0].startswith("In '") and len(lines) > 1 else lines[0]
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", line).strip("\"'").rstrip(".") + "."


def _no_such_key(named: str) -> str:
    """What there is in the place of a setting that an interpolation follows."""
    key = named.lstrip(".")
    known = list(declared(schema.Config))
    group = key.rpartition(".")[0]
    beside = [one for one in known if group and one.startswith(f"{group}.")]
    listed = ", ".join(beside) or f"{', '.join(schema.PARTS)} and their settings"
    return f"{named} is not a setting.{suggest_key(key, known)} There are {listed}."


def how_to_quote(override: str, error: Exception) -> str:
    """How an override that cannot be read is typed in a shell, where quotes are all that it lacks."""
    written = grammar.example(override) if "token recognition" in str(error) else None
    if written is None:
        return "Quote values with special characters."
    for_a_shell = shlex.quote(written) if set(written) & set('"$`\\!') else f'"{written}"'
    return f"Quote values with special characters: {for_a_shell}"


def _leaves(config: DictConfig) -> Iterator[str]:
    """Dotted names of all settings: ours, and the sweeper's and the launcher's; and the groups, as they are chosen."""
    groups = ("model", "data", "lora", "train", "verify", "track")
    for group in (*groups, "hydra.sweeper", "hydra.launcher"):
        node = OmegaConf.select(config, group)
        yield from (f"{group}.{name}" for name in node if not str(name).startswith("_"))
    yield from ("seed", "study", "store", "sweeps", *groups)
    yield from ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler", "hydra/sweeper/pruner")


def of_grammar(error: Exception) -> str:
    """Why Hydra cannot read an override, without the names of all that it could have read."""
    reason = first_line(error).partition(" expecting ")[0]
    return reason.replace("mismatched input '<EOF>'", "it ends where a value should follow")


def first_line(error: Exception) -> str:
    """The first line of what Hydra says, or of what it hides."""
    return (str(error) or str(error.__cause__) or type(error).__name__).strip().splitlines()[0]
