import shutil

import pytest

from lowrung.finetune import model, preflight

ARGUMENTS = {
    "model_path": "embedded:tiny",
    "target_modules": "all-linear",
    "data_name": "number_words",
    "train_size": 8,
    "eval_size": 4,
    "data_seed": 0,
    "max_length": 64,
}


def look(**changed):
    return preflight.look(**{**ARGUMENTS, **changed})


def test_a_sound_config_has_fingerprints_and_no_problems():
    found = look()
    assert found.problems == ()
    assert found.model_folder == model.locate("embedded:tiny")
    assert found.model_fingerprint == model.fingerprint(found.model_folder)
    assert [(split.context, split.rows) for split in found.splits] == [("training", 8), ("evaluation", 4)]


def test_a_local_folder_is_the_same_model_under_another_name(tmp_path):
    shutil.copytree(model.locate("embedded:tiny"), tmp_path / "my model")
    found = look(model_path=str(tmp_path / "my model"))
    assert (found.problems, found.model_folder) == ((), tmp_path / "my model")
    assert found.model_fingerprint == look().model_fingerprint


def test_all_problems_come_at_once():
    problems = look(target_modules=["q_proj", "c_attn", "lm_head"], max_length=4096, train_size=200_000).problems
    assert problems == (
        "lora.target_modules must name linear modules of the model, but it has no c_attn, lm_head."
        " It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj.",
        "data.max_length must be at most the model's context of 1024, but is 4096.",
        "data.train_size + data.eval_size must be at most the 100000 examples of number_words,"
        " but is 200000 + 4 = 200004. Lower one of them.",
    )


@pytest.mark.parametrize("names", [["q_proj"], ["self_attn.q_proj", "mlp.up_proj"]])
def test_modules_may_be_named_as_peft_takes_them(names):
    assert look(target_modules=names).problems == ()


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(model.locate("embedded:tiny"), folder)
    (folder / "chat_template.jinja").unlink()
    (problem,) = look(model_path=str(folder)).problems
    assert "must have a tokenizer with a chat template" in problem


def test_a_missing_folder_does_not_hide_a_problem_of_the_data():
    problems = look(model_path="nowhere", train_size=200_000).problems
    assert len(problems) == 2
