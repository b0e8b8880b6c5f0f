"""`lowrung generate`: adapters, merged models and bases side by side on the same prompts."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrung.commands.arguments import ADAPTER, NEW_TOKENS, Commands, add_base, add_new_tokens
from lowrung.commands.names import Named, find_adapters_or_models
from lowrung.commands.run_inputs import base_for, format_of, located
from lowrung.errors import UsageError, blaming

if TYPE_CHECKING:
    from lowrung.adapters.answers import PromptedModel

ABOUT = (
    "Prints the answers of adapters, merged models and bases to the same prompts, side by side. Answers are generated"
    " greedily, and prompts are formatted as in training. Adapters on the same base share it: it is loaded once."
)


def add_to(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = commands.add_parser("generate", help="show answers of adapters and models side by side", description=ABOUT)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"{ADAPTER}, or a whole model's folder")
    parser.add_argument("--prompt", action="append", required=True, help="a prompt; may be given several times")
    parser.add_argument("--with-base", action="store_true", help="ask the adapters' base too")
    add_new_tokens(parser)
    add_base(parser)
    parser.set_defaults(command=_run)


def _run(chosen: argparse.Namespace) -> "Answered":
    answers = generate(
        chosen.names,
        chosen.prompt,
        base=chosen.base,
        with_base=chosen.with_base,
        new_tokens=chosen.new_tokens,
        trust_remote_code=chosen.trust_remote_code,
    )
    return Answered(by_prompt(chosen.prompt, answers))


@dataclasses.dataclass(frozen=True)
class Answered:
    """Answers to prompts.

    Attributes:
        answers: to each prompt.
    """

    answers: "Sequence[Answer]"

    def __str__(self) -> str:
        """Each prompt with a line for each answer."""
        return "\n\n".join(map(str, self.answers))


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answers to one prompt.

    Attributes:
        prompt: the prompt.
        texts: the answers, by the name of the adapter or model; ``base`` is the base.
    """

    prompt: str
    texts: Mapping[str, str]

    def __str__(self) -> str:
        """The prompt, with a line for each answer."""
        return "\n".join([self.prompt, *(f"  {name}: {text}" for name, text in self.texts.items())])


def generate(
    names: Sequence[str],
    prompts: Sequence[str],
    *,
    base: str | None = None,
    with_base: bool = False,
    new_tokens: int = NEW_TOKENS,
    trust_remote_code: bool = False,
) -> dict[str, list[str]]:
    """Generates the answers of adapters and models to prompts, greedily.

    Args:
        names: adapters, runs, trials, or folders of whole models; none where only the base is asked.
        prompts: the prompts; formatted as in training.
        base: where the adapters' base is, instead of where they say.
        with_base: ask the bases too.
        new_tokens: the most tokens of an answer.
        trust_remote_code: run Python code that comes with the bases and models.

    Returns:
        the answer to each prompt, by the name of the adapter or model; ``base`` is the base.

    Raises:
        UsageError: when a name is unknown, or an adapter cannot be read or is another base's.
    """
    _check(names, prompts, base, new_tokens)
    from lowrung.adapters.answers import PromptedModel, answers
    from lowrung.config.schema import ModelConf

    models = {}
    for each in find_adapters_or_models(names, Path.cwd()):
        with blaming(each.name):
            models[each.name] = _model(each, base, trust_remote_code)
    if base is not None and not names:
        models[base] = PromptedModel(located(ModelConf(base, trust_remote_code=trust_remote_code)))
    if with_base:
        adapted = [model for model in models.values() if model.adapter is not None]
        bases = {dataclasses.replace(model.base, added_tokens=[]): model.format for model in adapted}
        models |= {
            "base" if len(bases) == 1 else f"base {base.path}": PromptedModel(base, format=format)
            for base, format in bases.items()
        }
    return dict(zip(models, answers(list(models.values()), prompts, new_tokens=new_tokens), strict=True))


def by_prompt(prompts: Sequence[str], answers: Mapping[str, Sequence[str]]) -> list[Answer]:
    """The answers to each prompt, from those of each model."""
    return [
        Answer(prompt, {name: texts[index] for name, texts in answers.items()}) for index, prompt in enumerate(prompts)
    ]


def _check(names: Sequence[str], prompts: Sequence[str], base: str | None, new_tokens: int) -> None:
    problems = prompt_problems(prompts, new_tokens, least=1)
    if not names and base is None:
        problems.append("generate needs a model, but has none: name an adapter, a run, a trial, a folder, or --base.")
    if problems:
        raise UsageError(problems)


def prompt_problems(prompts: Sequence[str], new_tokens: int, *, least: int) -> list[str]:
    """What is wrong with prompts, and with the length of answers, which must be at least ``least`` tokens."""
    problems = []
    if any(not prompt.strip() for prompt in prompts):
        problems.append("--prompt must hold some text, but one is empty.")
    if new_tokens < least:
        problems.append(f"--new-tokens must be at least {least}, but is {new_tokens}.")
    return problems


def _model(found: Named, base: str | None, trust_remote_code: bool) -> "PromptedModel":
    from lowrung.adapters import files
    from lowrung.adapters.answers import PromptedModel
    from lowrung.config.schema import ModelConf

    format = format_of(found.run)
    if not found.is_adapter:
        return PromptedModel(located(ModelConf(str(found.folder), trust_remote_code=trust_remote_code)), format=format)
    trained_on = base_for(found, files.read(found.folder), base, trust_remote_code=trust_remote_code)
    return PromptedModel(located(trained_on), found.folder, format)
