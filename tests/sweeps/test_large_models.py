"""Plans for models that this machine could not load, from their configs alone."""

import json
import shutil
from pathlib import Path

import pytest

from lowrung.config import signature
from lowrung.config.schema import Config
from lowrung.finetune import preflight
from lowrung.finetune.found import Preflight
from lowrung.finetune.models import pretrained
from lowrung.runs import inputs, planned
from tests.composing import Composer
from tests.stage import Stage

LLAMA_3 = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}

SHAPES = {
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
}


@pytest.fixture
def config(composer: Composer, tmp_path: Path, request: pytest.FixtureRequest) -> Config:
    """Of a sweep of a Llama 3 whose folder has a config and the tokenizer of a small model."""
    folder = tmp_path / request.param
    shutil.copytree(pretrained.locate("embedded:tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "config.json").write_text(json.dumps({**LLAMA_3, **SHAPES[request.param]}))
    few = ("data=number_words", "data.train_size=16", "data.eval_size=4", f"store={tmp_path / 'runs'}")
    return composer.config(f"model.path={folder}", "lora.r=8", *few)


def found(config: Config) -> Preflight:
    with signature.jobs_on("cuda"):
        return preflight.check(inputs.subject([config], weights=False))


@pytest.mark.slow
@pytest.mark.parametrize("config", ["8B"], indirect=True)
def test_eight_billion_weights_fit_one_gpu_in_bfloat16(config, here: Stage):
    known = found(config)
    assert known.problems == ()
    assert known.base is not None
    assert known.base.parameters == 8_030_261_248  # as its model card says
    few = ("data=number_words", "data.train_size=16", "data.eval_size=4", f"store={config.store}", "lora.r=8,16")
    machine = "hydra.sweeper.plan_for={gpus:1,memory:80GB,tflops:400}"
    here.sweep(f"model.path={config.model.path}", *few, machine, "hydra.sweeper.dry_run=true", seen=known)
    assert here.results is not None
    plan = here.results.planned
    assert plan is not None
    assert plan.memory is not None
    first = plan.points[0]
    # of each of 32 blocks: q and o (4096, 4096), k and v (4096, 1024), gate, up and down (4096, 14336)
    assert first.trainable == 8 * 32 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert first.fits
    assert plan.memory.parts["weights"] == pytest.approx(2 * 8_030_261_248)
    assert plan.device == "cuda"


@pytest.mark.slow
@pytest.mark.parametrize("config", ["70B"], indirect=True)
def test_seventy_billion_weights_do_not(config):
    known = found(config)
    assert known.base is not None
    assert known.base.parameters == 70_553_706_496
    with signature.jobs_on("cuda"):
        predicted = planned.predict(config, known, threads=1)
    assert predicted is not None
    assert predicted.trainable == 8 * 80 * (2 * 16384 + 2 * 9216 + 3 * 36864)
    assert predicted.memory_bytes > 141e9
