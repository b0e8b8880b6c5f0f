"""Inputs that are broken, and libraries that raise: each command says in a sentence which part is to blame."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import save_file

from lowrung import cli
from lowrung.__main__ import main
from lowrung.config import structured
from lowrung.errors import UsageError, blaming

INSPECT = ("inspect", "mine/0")
GENERATE = ("generate", "mine/0", "--prompt", "x", "--new-tokens", "1")
MERGE = ("merge", "mine/0", "--to", "out")
COMBINE = ("combine", "mine/0", "mine/1", "--to", "out", "--method", "cat")
COMPARE = ("compare", "mine/0", "mine/1", "--new-tokens", "1", "--prompt", "x")
PROMOTE = ("promote", "mine/0")
CLEAN = ("clean", "mine")
UI = ("ui",)


@pytest.fixture
def said(capsys):
    """Runs a command that must fail; returns the one message that it leaves."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code in (cli.FAILED, cli.USAGE)
        error = str(capsys.readouterr().err)
        assert "Traceback" not in error
        assert "Error: " in error or " errors:" in error
        return error

    return run


LONG = "ü" * 200


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("report", LONG), "STUDY must be a study in"),
        (("clean", LONG), "STUDY must be a study in"),
        (("sync", LONG), "must be a study or a run"),
        (("inspect", LONG), "must be an adapter's folder"),
        (("export", f"{LONG}/0", "--to", "trl"), "must be an adapter's folder"),
        (("studies", LONG), "A name must be one that a file can have, of 255 bytes or so, but one that begins with 'ü"),
    ],
)
def test_a_name_that_no_file_can_have(said, arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expected in said(*arguments)


# -- libraries that raise ----------------------------------------------------------------------------------------------

ERRORS: tuple[Exception, ...] = (
    RuntimeError("odd"),
    OSError("odd"),
    KeyError("odd"),
    ValueError("odd"),
    SafetensorError("odd"),
    torch.OutOfMemoryError("odd"),
    AttributeError("odd"),
)

ADAPTERS = "lowrung.adapters"
LOAD = "lowrung.finetune.models.pretrained"
COMMANDS = "lowrung.commands"
SEAMS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    # what raises: (what the message must name, by which commands it is called)
    f"{ADAPTERS}.files.load_file": (("ab12/adapter",), (INSPECT, GENERATE, MERGE, COMBINE, COMPARE)),
    f"{ADAPTERS}.files.LoraConfig.from_pretrained": (("ab12/adapter",), (INSPECT, MERGE)),
    f"{ADAPTERS}.injected.PeftModel": (("ab12/adapter", "tiny"), (INSPECT, GENERATE, MERGE, COMBINE)),
    f"{ADAPTERS}.compatibility.set_peft_model_state_dict": (("ab12/adapter",), (INSPECT, MERGE)),
    f"{ADAPTERS}.multi_adapter.PeftModel": (("ab12/adapter",), (GENERATE, COMBINE, COMPARE)),
    f"{ADAPTERS}.multi_adapter.set_peft_model_state_dict": (("ab12/adapter",), (GENERATE, COMBINE)),
    f"{ADAPTERS}.multi_adapter.get_peft_model_state_dict": (("combined adapter",), (COMBINE,)),
    f"{ADAPTERS}.multi_adapter.save_file": (("combined adapter", "a folder"), (COMBINE,)),
    f"{ADAPTERS}.combine._add_low_rank": (("mine/0 and mine/1", "cat"), (COMBINE,)),
    f"{ADAPTERS}.answers.generate.greedy": (("answers of", "ab12/adapter"), (GENERATE, COMPARE)),
    f"{LOAD}.AutoModelForCausalLM.from_pretrained": (("base", "tiny"), (GENERATE, MERGE, COMBINE, COMPARE)),
    f"{LOAD}.AutoModelForCausalLM.from_config": (("tiny",), (INSPECT, GENERATE, MERGE, COMBINE)),
    f"{LOAD}.AutoTokenizer.from_pretrained": (("tokenizer",), (INSPECT, GENERATE, MERGE, COMBINE, COMPARE)),
    f"{LOAD}.AutoConfig.from_pretrained": (("tiny",), (INSPECT, GENERATE, MERGE, COMBINE)),
    "lowrung.finetune.lora.merge.PeftModel.from_pretrained": (("ab12/adapter",), (MERGE,)),
    "lowrung.finetune.lora.merge.merge": (("ab12/adapter",), (MERGE,)),
    "lowrung.finetune.lora.merge.save": (("merged model",), (MERGE,)),
    f"{LOAD}.load_model": (("merged model, reloaded",), (MERGE,)),
    "omegaconf.OmegaConf.load": (("ab12/config.yaml",), (INSPECT, GENERATE, MERGE, COMBINE, COMPARE)),
    "lowrung.finetune.data.prepared.load_from_disk": ((".tokens/number-words",), (MERGE, COMBINE)),
    "lowrung.finetune.gate.difference.mean_loss": (("Scoring mine/0 and mine/1",), (COMBINE,)),
    "lowrung.store.outcome.records.read": (("mine/0",), (INSPECT, COMPARE)),
    f"{COMMANDS}.clean.survey": (("study mine",), (CLEAN,)),
    f"{COMMANDS}.clean.shutil.rmtree": (("mine",), (CLEAN,)),
    "lowrung.track.lookup.by_signature": (("tracker", "mlflow.db"), (PROMOTE,)),
    "lowrung.track.registry.Registry": (("tracker", "mlflow.db"), (PROMOTE,)),
    "lowrung.track.opening.MlflowClient": (("tracker", "mlflow.db"), (PROMOTE, UI)),
    "lowrung.track.server.subprocess.Popen": (("tracker", "mlflow.db"), (UI,)),
}
CALLS = [
    pytest.param(seam, names, command, ERRORS[number % len(ERRORS)], id=f"{command[0]}-{seam.removeprefix('lowrung.')}")
    for number, (seam, names, command) in enumerate(
        (seam, names, command) for seam, (names, commands) in SEAMS.items() for command in commands
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("seam", "names", "command", "error"), CALLS)
def test_what_a_library_raises_is_a_sentence_about_the_part_that_it_worked_on(
    here, store, said, monkeypatch, seam, names, command, error
):
    def raises(*_: Any, **__: Any) -> None:
        raise error

    (here / "multirun/mine/multirun.yaml").write_text("model: {}\ndata: {}\nlora: {}\ntrain: {}\n")
    (here / "runs/ab12/scratch").mkdir(exist_ok=True)
    for checkpoints in ("checkpoints", "merged"):
        (here / "runs/ab12" / checkpoints).mkdir(exist_ok=True)
    monkeypatch.setattr(seam, raises)
    message = said(*command)
    for name in names:
        assert name in message
    assert "odd" in message
    assert not (here / "out").exists() or f"The combined adapter is in {here / 'out'}." in message


@pytest.mark.parametrize("error", [*ERRORS, MemoryError(), RuntimeError("[enforce] can't allocate memory: 9 bytes")])
def test_whatever_is_raised_ends_in_words_and_with_exit_code_1(said, monkeypatch, error):
    def raises(*_: Any, **__: Any) -> None:
        raise error

    structured.register()  # as commands do that read a run's config
    monkeypatch.setattr(sys, "argv", ["lowrung", "clean", "mine", "--to", "out"])  # no overrides of Hydra's
    monkeypatch.setattr("lowrung.commands.clean.clean", raises)
    message = said("clean", "mine")
    assert "study mine" in message
    assert type(error).__name__ in message
    assert ("needs more memory" in message) == ("emory" in repr(error))
    assert "HYDRA_FULL_ERROR=1 before the command shows where it was raised." in message
    with pytest.raises(SystemExit) as ended:
        cli.run(raises)
    assert ended.value.code == cli.FAILED


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), cli.INTERRUPTED), (UsageError("x"), cli.USAGE)])
def test_ctrl_c_and_bad_usage_keep_their_codes(error, code):
    def raises() -> None:
        with blaming("the adapter"):
            raise error

    with pytest.raises(SystemExit) as ended:
        cli.run(raises)
    assert ended.value.code == code


# -- files that are broken ---------------------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-50])


def as_folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def holding(text: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(text)


def changed(**values: Any) -> Callable[[Path], object]:
    """Changes fields of a JSON object."""
    return lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


CONFIG, WEIGHTS, RUN = "ab12/adapter/adapter_config.json", "ab12/adapter/adapter_model.safetensors", "ab12/config.yaml"
OUTCOME, ENVIRONMENT, TOKENIZER = "ab12/outcome.json", "ab12/environment.json", "ab12/adapter/tokenizer.json"
ALL = (INSPECT, GENERATE, MERGE, COMBINE, COMPARE)
BROKEN: dict[str, tuple[str, Callable[[Path], object], tuple[tuple[str, ...], ...]]] = {
    "cut weights": (WEIGHTS, cut, ALL),
    "no weights at all": (WEIGHTS, holding(""), (INSPECT, MERGE)),
    "a folder for weights": (WEIGHTS, as_folder, (INSPECT, GENERATE)),
    "weights of nothing": (WEIGHTS, lambda file: save_file({}, file), (GENERATE, COMBINE)),
    "settings that are no JSON": (CONFIG, holding("{"), ALL),
    "settings in a list": (CONFIG, holding("[1]"), (INSPECT, COMBINE)),
    "settings in Latin-1": (CONFIG, lambda file: file.write_bytes(b'{"r": "\xe9"}'), (INSPECT,)),
    "a folder for settings": (CONFIG, as_folder, (INSPECT, MERGE)),
    "targets of a wrong type": (CONFIG, changed(target_modules=5), (INSPECT, GENERATE)),
    "targets in a mapping": (CONFIG, changed(target_modules={"q": 1}), (INSPECT,)),
    "an alpha of null": (CONFIG, changed(lora_alpha=None), (INSPECT, MERGE)),
    "ranks in a list": (CONFIG, changed(rank_pattern=[1]), (INSPECT,)),
    "tokens as text": (CONFIG, changed(trainable_token_indices={"embed_tokens": "x"}), (INSPECT, GENERATE)),
    "modules as one text": (CONFIG, changed(modules_to_save="lm_head"), (INSPECT, MERGE)),
    "a bias that is none": (CONFIG, changed(bias="some"), (INSPECT, GENERATE)),
    "a base that is a number": (CONFIG, changed(base_model_name_or_path=5), (INSPECT,)),
    "a task that is none": (CONFIG, changed(task_type="X"), (INSPECT,)),
    "a tokenizer that is no JSON": (TOKENIZER, holding("{"), (GENERATE, MERGE, COMBINE)),
    "a tokenizer of another kind": (TOKENIZER, holding("[]"), (GENERATE,)),
    "a run's config that is no YAML": (RUN, holding("a: [1"), ALL),
    "a run's config that is a list": (RUN, holding("[1]"), ALL),
    "a run's config without groups": (RUN, holding("model: {}"), (INSPECT, COMPARE)),
    "a run's base of a wrong type": (RUN, lambda file: edited(file, model={"path": [1]}), (INSPECT, GENERATE)),
    "a run's setting that is none": (RUN, lambda file: edited(file, model={"colour": 1}), (INSPECT, GENERATE)),
    "a cut outcome": (OUTCOME, cut, (INSPECT, COMPARE, PROMOTE)),
    "an outcome's status of a wrong type": (OUTCOME, changed(status=3), (INSPECT, COMPARE)),
    "an outcome's metrics in a list": (OUTCOME, changed(metrics=[1]), (INSPECT, COMPARE)),
    "an outcome's metric as text": (OUTCOME, changed(metrics={"merge/passed": "x"}), (INSPECT, COMPARE)),
    "an outcome's facts of a wrong type": (OUTCOME, changed(facts=[1], status="failed"), (COMPARE, PROMOTE)),
    "an outcome's cause of a wrong type": (OUTCOME, changed(cause=[1], status="failed"), (COMPARE, PROMOTE)),
    "a folder for the outcome": (OUTCOME, as_folder, (INSPECT, COMPARE)),
    "an environment in a list": (ENVIRONMENT, holding("[]"), (MERGE, COMBINE)),
    "tokens of a wrong type": (ENVIRONMENT, holding('{"tokens": 5}'), (MERGE, COMBINE)),
    "facts of tokens of a wrong type": (".tokens/number-words/facts.json", holding('{"truncated": []}'), (MERGE,)),
}


def edited(file: Path, **groups: dict[str, Any]) -> None:
    config: Any = OmegaConf.load(file)
    for group, values in groups.items():
        config[group].update(values)
    OmegaConf.save(config, file)


QUICK = ("a folder for weights", "targets in a mapping", "a run's config that is a list", "tokens of a wrong type")


@pytest.mark.parametrize(
    ("file", "spoil", "command"),
    [
        pytest.param(file, spoil, command, id=f"{command[0]}, {what}", marks=() if what in QUICK else pytest.mark.slow)
        for what, (file, spoil, commands) in BROKEN.items()
        for command in commands
    ],
)
def test_a_broken_file_is_named(here, said, file, spoil, command):
    spoil(here / "runs" / file)
    message = said(*command)
    assert "ab12" in message or "mine/0" in message or Path(file).parent.name in message
    assert "not foreseen" not in message
    assert not (here / "out").exists()
