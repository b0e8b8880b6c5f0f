"""Weights that do not fit their model are found by their names and shapes."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig

from lowrung.config.schema import ModelConf
from lowrung.finetune.models import pretrained, soundness, weights
from tests.architectures import SIZES


def rewrite(folder: Path, names: Callable[[str], Sequence[str]]) -> None:
    """Gives each tensor other names; one without any is left out."""
    held = load_file(folder / "model.safetensors")
    renamed = {new: tensor.clone() for name, tensor in held.items() for new in names(name)}
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})


def change_config(folder: Path, **changed: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))


def problem(folder: Path) -> str:
    """The one problem of a folder."""
    (found,) = soundness.problems(ModelConf(str(folder)))
    return found


def notes(folder: Path) -> list[str]:
    base = ModelConf(str(folder))
    assert soundness.problems(base) == []
    return weights.notes(pretrained.skeleton(base), folder)


@pytest.fixture
def sharded(copy):
    """A copy of `tiny` in several files."""
    model = pretrained.load_base(ModelConf(str(copy)), pretrained.device())
    (copy / "model.safetensors").unlink()
    model.save_pretrained(copy, max_shard_size="100KB")
    return copy


@pytest.mark.parametrize(
    ("name", "count"), [("lm_head.weight", 1), ("model.layers.1.mlp.up_proj.weight", 1), ("model.layers.0.", 9)]
)
def test_weights_that_are_absent_are_named(copy, name, count):
    rewrite(copy, lambda known: [] if known.startswith(name) else [known])
    assert f"{count} of 21 are not in {copy}: {name}" in problem(copy)
    assert "They would be random numbers." in problem(copy)


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("_orig_mod.", "save the model that was compiled"),
        ("module.", "save its .module"),
        ("base_model.model.", "save it after its merge_and_unload()"),
        ("language_model.", "begin with 'language_model.'."),
    ],
)
def test_names_with_a_prefix_are_recognised(copy, prefix, remedy):
    rewrite(copy, lambda known: [prefix + known])
    assert "21 of 21 are not in" in problem(copy)
    assert repr(prefix) in problem(copy)
    assert remedy in problem(copy)


@pytest.mark.parametrize(
    "names", [lambda known: ["model." + known], lambda known: [known.removeprefix("model.")]], ids=["more", "less"]
)
def test_a_prefix_that_transformers_takes_for_its_own_is_no_problem(copy, names):
    rewrite(copy, lambda known: names(known) if known.startswith("model.") else [known])
    assert notes(copy) == []


def test_tensors_that_the_model_does_not_have_are_a_note(copy):
    rewrite(copy, lambda known: [known, f"visual.{known}"] if "q_proj" in known else [known])
    (note,) = notes(copy)
    assert note.startswith(f"2 tensors in {copy} are not of the model, and are left out: visual.model.layers.0")


def test_a_head_that_is_tied_may_be_absent(copy):
    change_config(copy, tie_word_embeddings=True)
    rewrite(copy, lambda known: [] if known == "lm_head.weight" else [known])
    assert notes(copy) == []


def test_shapes_that_differ_from_the_config_are_named(copy):
    change_config(copy, intermediate_size=96)
    assert "model.layers.0.mlp.down_proj.weight has (64, 128) instead of (64, 96), and 5 more" in problem(copy)


def test_a_file_that_is_not_there(sharded):
    gone = sorted(sharded.glob("*.safetensors"))[1]
    assert soundness.problems(ModelConf(str(sharded))) == []
    gone.unlink()
    assert f"lists are not there: {gone.name}. Fetch or copy the model again." in problem(sharded)


def test_a_file_that_is_cut_off(sharded):
    cut = sorted(sharded.glob("*.safetensors"))[1]
    cut.write_bytes(cut.read_bytes()[:-100])
    assert f"but {cut} ({cut.stat().st_size:,} bytes) is cut off or no safetensors" in problem(sharded)


def test_a_pointer_in_place_of_a_file(copy):
    (copy / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    assert "is cut off or no safetensors" in problem(copy)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}'])
def test_an_index_that_lists_nothing(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    assert "must have an index of its weights that is JSON with a weight_map" in problem(sharded)


def test_an_index_that_is_not_there(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    assert "must have its weights in model.safetensors, or in several files" in problem(sharded)


def test_experts_that_are_saved_one_by_one_are_counted(tmp_path):
    """transformers stacks them while it loads."""
    folder = tmp_path / "mixtral"
    AutoModelForCausalLM.from_config(MixtralConfig(**SIZES, num_local_experts=4)).save_pretrained(folder)
    skeleton = pretrained.plain_skeleton(folder, trust_remote_code=False)
    assert weights.problems(skeleton, folder) == []
    assert weights.notes(skeleton, folder) == []
    whole = shutil.copytree(folder, tmp_path / "one less")
    rewrite(whole, lambda known: [] if "experts.3." in known else [known])
    (found,) = weights.problems(skeleton, whole)
    assert "model.layers.0.mlp.experts.down_proj has (3, 64, 128) instead of (4, 64, 128)" in found
    rewrite(folder, lambda known: [] if "experts.3.w1" in known else [known])
    (found,) = weights.problems(skeleton, folder)
    assert "must have weights that transformers can load" in found
