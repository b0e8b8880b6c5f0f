"""Every preset in sweeps/: its head says what it asks, with which commands, and how many runs that takes."""

import math
import re
import shlex
from typing import Any

import pytest

from lowrung.config.schema import Config, total_steps
from lowrung.store.layout import ROOT
from lowrung.store.outcome import Outcome
from tests import evidence
from tests.stage import Act, Stage

PRESETS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
SMALL = ["model=tiny", "data=number_words", "train=smoke"]
COST = re.compile(r"^# Cost: (\d+)(?: to (\d+))? runs\b", re.M)


def head(name: str) -> str:
    """The comment at the start of a preset."""
    lines = (ROOT / "sweeps" / f"{name}.yaml").read_text().splitlines()[1:]
    return "\n".join(lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))])


def costs(name: str) -> tuple[int, int]:
    """The fewest and the most runs, as the head has them."""
    found = COST.search(head(name))
    assert found
    fewest = int(found[1])
    return fewest, int(found[2] or fewest)


def commands(name: str) -> list[list[str]]:
    """The overrides of each command in a head."""
    text = re.sub(r"\\\n#\s*", "", head(name))
    return [shlex.split(line)[2:] for line in re.findall(r"#\s+(python src/train\.py .*)", text)]


def trains(stage: Stage, *, spread: float = 0.0, apart: float = 1.0) -> Act:
    """Runs that differ by rate, rank, variant, layers, batch and seed.

    Args:
        stage: where they run.
        spread: how much the losses of two runs differ on each held-out example, beside their means.
        apart: multiplies what sets ranks apart.
    """

    def act(config: Config) -> Outcome:
        lora, train = config.lora, config.train
        best = {"pissa": 0.3, "olora": 0.3}.get(lora.init, 0.1 if lora.lora_plus_ratio else 1.0)
        off = math.log10(train.rate_factor / best / math.sqrt(train.batch_size / 8))
        variant = 0.01 * (len(lora.init) + lora.use_dora + 2 * lora.is_full)
        size = lora.r * {"all-linear": 3, "mlp": 2, "attention": 1}[lora.target_modules]
        seed = evidence.run(
            stage.assigned[-1].folder.path,
            config.seed,
            loss=off**2 + variant + apart / size + 1e-3 * config.seed,
            spread=spread,
            params__trainable=1e6 if lora.is_full else 1e3 * size,
            forget__loss_delta=0.1 * train.rate_factor + 0.001 * lora.r,
        )
        return seed.outcome

    return act


def slow_above(runs: int) -> list[Any]:
    """The presets as parameters; a test of one with more runs is slow. A run takes about 0.1 s of CPU time."""
    return [pytest.param(name, marks=pytest.mark.slow if costs(name)[0] > runs else ()) for name in PRESETS]


class TestHead:
    @pytest.mark.parametrize("name", PRESETS)
    def test_asks_a_question_and_gives_its_reasons(self, name):
        lines = head(name).splitlines()
        assert 6 <= len(lines) <= 14
        assert re.match(r"# [A-Z][^.]*\?", lines[0])
        assert name == "quick" or re.search(r"arXiv \d{4}\.\d{5}|Thinking Machines 2025", head(name))

    @pytest.mark.parametrize("name", PRESETS)
    def test_has_the_plain_command_and_one_for_a_real_model(self, name):
        given = commands(name)
        assert given[0] == [f"sweeps={name}"]
        assert any({"data=hub", "data.path=trl-lib/Capybara"} <= set(overrides) for overrides in given)

    @pytest.mark.parametrize("name", slow_above(4))
    def test_its_last_command_passes_all_checks_with_all_of_its_space(self, here, name, capsys):
        assert here.sweep(*commands(name)[-1], "hydra.sweeper.dry_run=true") == []
        assert "a dry run" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [between for name in PRESETS for between in commands(name)[1:-1]], ids=" ".join)
def test_so_do_the_other_commands(here, overrides):
    assert here.sweep(*overrides, "hydra.sweeper.dry_run=true") == []


@pytest.mark.parametrize("name", slow_above(4))
def test_it_runs_to_its_end_in_as_many_runs_as_its_head_says(here, name):
    assert len(here.sweep(f"sweeps={name}", *SMALL, act=trains(here))) == costs(name)[0]
    assert here.results is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PRESETS if len(set(costs(name))) > 1])
def test_the_most_runs_that_its_head_says_are_those_of_ties(here, name):
    assert len(here.sweep(f"sweeps={name}", *SMALL, act=trains(here, spread=0.5, apart=1e-6))) == costs(name)[1]


@pytest.mark.slow
def test_lr_rank_tries_the_prior_a_third_and_three_times_it_first(here):
    ran = here.sweep("sweeps=lr_rank", *SMALL, n_trials=3, act=trains(here))
    assert [(config.train.rate_factor, config.lora.r) for config in ran] == [(1, 4), (0.33, 16), (3, 64)]


@pytest.mark.slow
def test_batches_see_the_same_examples_at_rates_with_the_root_of_the_batch(here):
    ran = [config.train for config in here.sweep("sweeps=batch", *SMALL, "train.batch_size=2,32", act=trains(here))]
    rates = sorted((train.batch_size, round(train.rate_factor, 6)) for train in ran)
    assert rates == [(2, 0.25), (2, 0.5), (2, 1), (32, 1), (32, 2), (32, 4)]
    assert {total_steps(train, 512) * train.batch_size for train in ran} == {160}


def test_the_page_has_each_with_its_question_and_its_cost():
    page = (ROOT / "docs" / "presets.md").read_text()
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(\.\./sweeps/\1\.yaml\) \| (.*) \|$", page, re.M))
    assert set(rows) == set(PRESETS)
    for name, row in rows.items():
        fewest, most = costs(name)
        question = re.match(r"# (.*?\?)", head(name))
        assert question
        runs = str(fewest) if fewest == most else f"{fewest} to {most}"
        assert re.match(rf"{re.escape(question[1])} \| {runs}(,|$)", row), name
