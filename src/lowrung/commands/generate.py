"""`lowrung generate`: adapters, merged models and bases side by side on the same prompts."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, Commands, add_base, add_new_tokens
from lowrung.commands.names import Named, find_adapters_or_models
from lowrung.commands.run_inputs import base_for, config_of
from lowrung.errors import UsageError

if TYPE_CHECKING:
    from lowrung.adapters.answers import Asked
    from lowrung.config.schema import ModelConf

ABOUT = (
    "Asks adapters, merged models and bases the same, greedily. Prompts are written down as in training. Adapters"
    " on the same base are switched: it is loaded once."
)


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("generate", help="ask adapters and models the same, side by side", description=ABOUT)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{ADAPTER}, or a whole model's folder")
    parser.add_argument("--prompt", action="append", required=True, help="what is asked; may be given several times")
    parser.add_argument("--with-base", action="store_true", help="ask the adapters' base too")
    add_new_tokens(parser)
    add_base(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> None:
    print(
        generate(
            chosen.names,
            chosen.prompt,
            base=chosen.base,
            with_base=chosen.with_base,
            new_tokens=chosen.new_tokens,
            trust_remote_code=chosen.trust_remote_code,
        )
    )


def generate(
    names: Sequence[str],
    prompts: Sequence[str],
    *,
    base: str | None = None,
    with_base: bool = False,
    new_tokens: int,
    trust_remote_code: bool = False,
) -> str:
    """Asks all who were named, greedily.

    Args:
        names: adapters, runs, trials, or folders of whole models; none where only the base is asked.
        prompts: what is asked; written down as in training.
        base: where the adapters' base is, instead of where they say.
        with_base: ask the bases too.
        new_tokens: the most tokens of an answer.
        trust_remote_code: run Python code that comes with the bases and models.

    Returns:
        each prompt with a line for each answer.

    Raises:
        UsageError: when a name is unknown, or an adapter cannot be read or is another base's.
    """
    _check(names, prompts, base, new_tokens)
    from lowrung.adapters.answers import Asked, answers
    from lowrung.config.schema import ModelConf

    asked = {found.name: _asked(found, base, trust_remote_code) for found in find_adapters_or_models(names, Path.cwd())}
    if base is not None and not names:
        asked[base] = Asked(located(ModelConf(base, trust_remote_code=trust_remote_code)))
    if with_base:
        adapted = [one for one in asked.values() if one.adapter is not None]
        bases = {dataclasses.replace(one.base, added_tokens=[]): one.format for one in adapted}
        asked |= {
            "base" if len(bases) == 1 else f"base {base.path}": Asked(base, format=format)
            for base, format in bases.items()
        }
    given = answers(list(asked.values()), prompts, new_tokens=new_tokens)
    return "\n\n".join(
        "\n".join([prompt, *(f"  {name}: {texts[number]}" for name, texts in zip(asked, given, strict=True))])
        for number, prompt in enumerate(prompts)
    )


def _check(names: Sequence[str], prompts: Sequence[str], base: str | None, new_tokens: int) -> None:
    problems = prompt_problems(prompts, new_tokens, least=1)
    if not names and base is None:
        problems.append("Somebody must be asked: name an adapter, a run, a trial or a model's folder, or --base PATH.")
    if problems:
        raise UsageError(problems)


def prompt_problems(prompts: Sequence[str], new_tokens: int, *, least: int) -> list[str]:
    """What is wrong with what is asked, and with the length of answers, of at least so many tokens."""
    problems = []
    if any(not prompt.strip() for prompt in prompts):
        problems.append("--prompt must hold some text, but one is empty.")
    if new_tokens < least:
        problems.append(f"--new-tokens must be at least {least}, but is {new_tokens}.")
    return problems


def _asked(found: Named, base: str | None, trust_remote_code: bool) -> "Asked":
    from lowrung.adapters import files
    from lowrung.adapters.answers import Asked
    from lowrung.config.schema import ModelConf

    format = str(config_of(found.run)["data"]["format"]) if found.run else "auto"
    if not found.is_adapter:
        return Asked(located(ModelConf(str(found.folder), trust_remote_code=trust_remote_code)), format=format)
    its_base = base_for(found, files.read(found.folder), base, trust_remote_code=trust_remote_code)
    return Asked(located(its_base), found.folder, format)


def located(base: "ModelConf") -> "ModelConf":
    """The base by its folder, so that it is the same however it was named.

    Raises:
        UsageError: when it cannot be found or loaded.
    """
    from lowrung.adapters.compatibility import base_problems
    from lowrung.finetune.models import pretrained

    if problems := base_problems(base):
        raise UsageError(problems)
    return dataclasses.replace(base, path=str(pretrained.folder_of(base)), revision=None)
