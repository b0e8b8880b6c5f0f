"""What is wrong with the ranks of a run, before it starts."""

import pytest

from lowrung.config import rank_rules, rules
from tests.composing import Composer

DDP, FSDP = "train.parallel=ddp", "train.parallel=fsdp"
HOW = "hydra.launcher.gpus_per_trial=2"


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["train.parallel=dpp"], "train.parallel must be one of none, ddp, fsdp, but is 'dpp'. Did you mean ddp?"),
        (["train.ranks=2"], "train.ranks must be null where one process trains, but is 2"),
        ([DDP, "train.ranks=1"], "train.ranks must be at least 2 with train.parallel=ddp, but is 1"),
        ([DDP, "model.device_map=auto"], "train.parallel=ddp gives each GPU a process of its own, but"),
        (
            [DDP, "train.ranks=3", "train.batch_size=8"],
            "train.batch_size must be a multiple of the ranks that divide it, 3, but is 8. 9 is one.",
        ),
        ([DDP, "train.sft={neftune_noise_alpha:5}"], "train.sft.neftune_noise_alpha follows the longest row"),
        ([FSDP, "lora=full"], "train.parallel=fsdp divides a frozen base among the ranks, but lora=full freezes"),
        ([FSDP, "model.quantization=nf4"], "a part of the base, and model.quantization=nf4 needs all of it"),
        ([FSDP, "lora=pissa"], "a part of the base, and lora.init=pissa needs all of it"),
        ([FSDP, "lora=dora"], "a part of the base, and lora.use_dora needs all of it"),
        ([FSDP, "lora.modules_to_save=[lm_head]"], "and lora.modules_to_save needs all of it"),
        ([FSDP, "lora.peft={lora_bias:true}"], "and lora.peft.lora_bias needs all of it"),
        ([FSDP, "train.early_stopping=2"], "and train.early_stopping needs all of it, or was not tried with a part"),
    ],
)
def test_what_cannot_be_is_one_sentence(composer: Composer, overrides: list[str], problem: str) -> None:
    (found,) = rules.problems(composer.config(*overrides))
    assert problem in found


@pytest.mark.parametrize(
    ("overrides", "gpus", "problem"),
    [
        ([DDP], 0, "train.parallel=ddp must have train.ranks where there is no GPU to count"),
        (
            [DDP],
            0.5,
            "must have two whole GPUs or more for a trial, one for each rank, but has 0.5. Set hydra.launcher",
        ),
        ([DDP], 1, "must have two whole GPUs or more for a trial, one for each rank, but has 1. Set hydra.launcher"),
        ([DDP, "train.ranks=4"], 2, "train.ranks must be the number of a trial's GPUs, 2, one for each rank, but is 4"),
        ([DDP, "train.ranks=2"], 4, "train.ranks must be the number of a trial's GPUs, 4, one for each rank, but is 2"),
        (
            [DDP, "train.batch_size=8"],
            3,
            "train.batch_size must be a multiple of the ranks that divide it, 3, but is 8",
        ),
        ([DDP, "train.ranks=2"], 0, None),
        ([FSDP], 4, None),
        ([], 0.5, None),
    ],
)
def test_each_rank_has_a_gpu(composer: Composer, overrides: list[str], gpus: float, problem: str | None) -> None:
    config = composer.config(*overrides)
    assert rules.problems(config) == []
    found = list(rank_rules.gpu_problems(config, gpus, HOW))
    assert [problem in each for each in found if problem] == ([True] if problem else [])
