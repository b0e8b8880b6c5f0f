"""What a cluster cannot give, with stand-ins for SLURM's commands; tests/cluster asks a real SLURM."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.lowrung.slurm_launcher import SlurmLauncher
from lowrung.engine import node, slurm_cluster, slurm_commands, slurm_words
from lowrung.engine.slurm_words import Wanted
from lowrung.errors import UsageError

WANTED = Wanted(None, None, None, None, None, None, None, cpus=4, gpus=1)
SINFO = """\
debug*|2|11552|(null)|(null)|infinite
gpu|16+|64000+|gpu:a100:4(S:0-1),nvme:1|fast,ib|1-00:00:00
gpu|64|32000|gpu:v100:2|ib|1-00:00:00
"""
NEEDS_AN_ACCOUNT = """
case "$*" in
    *--account=lab*) exit 0;;
    *--account=*|*--qos=*) echo 'allocation failure: Invalid account' >&2; exit 1;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with stand-ins for SLURM's commands."""
    for name in slurm_commands.NEEDED:
        stand_in(tmp_path, name, "exit 0")
    stand_in(tmp_path, "sinfo", f"cat <<'END'\n{SINFO}END")
    stand_in(tmp_path, "sbatch", NEEDS_AN_ACCOUNT)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def stand_in(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def said(**asked: Any) -> list[str]:
    return slurm_cluster.problems(dataclasses.replace(WANTED, **asked))[0]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"partition": "gpus"}, "must be one of the cluster's, but is 'gpus'; it has debug, gpu. Did you mean gpu?"),
        ({"cpus": 5}, "cpus_per_trial must fit on a node, but is 5, and the largest of partition debug has 2 CPUs"),
        ({"cpus": 2, "gpus": 2}, "gpus_per_trial must fit on a node, but is 2, and the largest of"),
        ({"partition": "gpu", "gpus": 5}, "gpus_per_trial must fit on a node, but is 5, and the largest"),
        ({"partition": "gpu", "gres": "gpu:h100:1"}, "partition gpu has 0 GPUs h100"),
        ({"partition": "gpu", "memory": "1T"}, "is 1T, and the largest of partition gpu has 62.5G"),
        ({"partition": "gpu", "constraint": "slow"}, "constraint must be a feature of a node, but is 'slow'"),
        ({"partition": "gpu", "time": "2-00:00:00"}, "time must be within the limit of partition gpu, 24h, but"),
        ({"partition": "gpu", "cpus": 32, "gpus": 4}, "One node must have all that a trial asks for, but none of"),
        ({"cpus": 1, "account": "nope"}, "account must be one that SLURM takes from you, but is 'nope': Invalid"),
        ({"cpus": 1, "qos": "high"}, "qos must be one that SLURM takes from you, but is 'high': Invalid account."),
    ],
)  # fmt: skip
def test_each_is_named_with_what_there_is(programs: Path, asked: dict[str, Any], problem: str) -> None:
    (found,) = said(**asked)
    assert problem in found


def test_all_at_once(programs: Path) -> None:
    found = said(cpus=99, memory="1T", account="nope", qos="nope", constraint="fast", gpus=2)
    assert len(found) == 6


def test_a_partition_must_be_named_where_there_is_no_default(programs: Path) -> None:
    stand_in(programs, "sinfo", "echo 'gpu|16|64000|gpu:4|fast|infinite'")
    assert said() == ["hydra.launcher.partition must be set: the cluster has no default. It has gpu."]


def test_an_account_that_is_needed_and_not_named(programs: Path) -> None:
    stand_in(programs, "sbatch", "echo 'sbatch: error: Invalid account' >&2; exit 1")
    (found,) = said(cpus=1)
    assert found == "SLURM must take a job of yours with no account named, but it does not: Invalid account."


def test_a_cluster_that_takes_only_jobs_with_a_time_and_gpus(programs: Path) -> None:
    asked = "*--partition=gpu*--time=90*--gres=gpu:1*"
    stand_in(programs, "sbatch", f'case "$*" in {asked}) exit 0;; esac; echo "ask for GPUs and a time" >&2; exit 1')
    assert said(partition="gpu", cpus=1, time="90m") == []
    (found,) = said(partition="gpu", cpus=1)
    assert found.endswith("but it does not: ask for GPUs and a time.")


def test_a_controller_that_does_not_answer(programs: Path) -> None:
    stand_in(programs, "sinfo", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert said() == [
        "SLURM must answer, but it does not: Unable to contact slurm controller. `sinfo` shows its state."
    ]


@pytest.mark.parametrize(
    ("partition", "asked", "gres"),
    [
        (None, None, None),
        ("gpu", None, "gpu:1"),
        ("gpu", "nvme:1", "nvme:1,gpu:1"),
        ("gpu", "gpu:a100:1,nvme:1", "gpu:a100:1,nvme:1"),
        ("gpu", "gpu:a100", "gpu:a100"),
    ],
)
def test_gpus_are_asked_for_where_there_are_some(
    programs: Path, partition: str | None, asked: str | None, gres: str | None
) -> None:
    wanted = dataclasses.replace(WANTED, cpus=1, partition=partition, gres=asked)
    problems, has_gpus = slurm_cluster.problems(wanted)
    assert (problems, has_gpus, slurm_words.gres(wanted, has_gpus)) == ([], partition == "gpu", gres)


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        *(("90m", 90), ("1h30m", 90), ("4h", 240), ("1-00:00:00", 1440), ("1-12", 2160), ("0-01:30", 90)),
        *(("01:30:00", 90), ("90:30", 90.5), ("90", None), ("infinite", None), ("soon", None), ("0m", None)),
        *(("-1h", None), ("", None), ("1-", None), ("00:00:00", None)),
    ],
)
def test_times(written: str, minutes: float | None) -> None:
    assert slurm_words.minutes(written) == minutes


@pytest.mark.parametrize(
    ("written", "gpus"),
    [
        *(("(null)", {}), ("gpu:2", {"": 2}), ("gpu", {"": 1}), ("gpu:a100:4(S:0-1),nvme:1", {"a100": 4})),
        *(("gpu:a100", {"a100": 1}), ("gpu:a100(S:0),nvme", {"a100": 1})),
        *(("gpu:a100:2(IDX:0,1),gpu:v100:1", {"a100": 2, "v100": 1}), ("mps:100", {}), ("shard:gpu:4", {})),
    ],
)
def test_generic_resources(written: str, gpus: dict[str, int]) -> None:
    assert slurm_words.gpus_of(written) == gpus


class TestLauncher:
    @pytest.mark.parametrize(
        ("setting", "problem"),
        [
            ({"workers": 0}, "hydra.launcher.workers must be a whole number >= 1, but is 0"),
            ({"gpus_per_trial": 0}, "hydra.launcher.gpus_per_trial must be a whole number >= 1"),
            ({"time": 90}, "hydra.launcher.time must be a duration such as 90m or 4h"),
            ({"time": "2m"}, "and at least 5m, but is '2m'"),
            ({"memory": "lots"}, "hydra.launcher.memory must be a number and its unit, such as 32G, but is 'lots'"),
            ({"memory": "1.5G"}, "such as 32G, but is '1.5G'"),
            ({"gres": "gpu:a100:2"}, "as many as hydra.launcher.gpus_per_trial, but is 'gpu:a100:2'"),
            ({"gres": "gpu:a:1,gpu:b:1", "gpus_per_trial": 2}, "GPUs of one kind"),
            ({"time_limit": "soon"}, "hydra.launcher.time_limit must be seconds or a duration"),
            ({"poll_seconds": 0}, "hydra.launcher.poll_seconds must be at least 1"),
        ],
    )
    def test_settings(self, programs: Path, setting: dict[str, Any], problem: str) -> None:
        with pytest.raises(UsageError) as caught:
            SlurmLauncher(**setting).make_engine([])
        assert problem in str(caught.value)

    def test_no_slurm_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        (found,) = (one for one in SlurmLauncher(workers=1).problems() if "commands" in one)
        assert "sbatch, squeue, scancel, sinfo, srun are not on PATH. Start the sweep on a login node" in found

    def test_a_missing_package(self, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        (found,) = SlurmLauncher().problems()
        assert "needs the package submitit, which is not installed" in found
        assert "pip install 'lowrung[slurm]'" in found


def test_the_variables_of_an_outer_job_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"SLURM_JOB_ID": "7", "SBATCH_PARTITION": "x", "SLURM_CONF": "/etc/slurm.conf"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with slurm_commands.outside_of_jobs():
        assert {name: os.environ.get(name) for name in given} == {
            **dict.fromkeys(given),
            "SLURM_CONF": "/etc/slurm.conf",
        }
    assert {name: os.environ.get(name) for name in given} == given


def test_states_in_one_call(programs: Path, tmp_path: Path) -> None:
    stand_in(
        programs,
        "squeue",
        f'echo "$*" >> {tmp_path}/asked; printf "7_0|RUNNING|n1|None\\n7_1|PENDING||A|B\\n9|TIMEOUT|n2|TimeLimit\\n"',
    )
    known = slurm_commands.states(["7_0", "7_1", "9"])
    assert [(job, state.name, state.reason, state.has_ended) for job, state in known.items()] == [
        ("7_0", "RUNNING", "", False),
        ("7_1", "PENDING", "A|B", False),
        ("9", "TIMEOUT", "TimeLimit", True),
    ]
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs=7,9" in asked
    stand_in(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm_commands.states(["9"]) == {}
    stand_in(programs, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(slurm_commands.NoAnswer, match="Unable to contact"):
        slurm_commands.states(["9"])


def test_a_secret_is_carried_by_its_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    from lowrung.engine.slurm_submission import Options

    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    parameters = Options(setup=["module load cuda"]).parameters(2)
    assert "HF_TOKEN" in parameters["additional_parameters"]["export"].split(",")  # type: ignore[index]
    assert "hf-secret" not in str(parameters)
    assert "HF_TOKEN" in node.carried()
