import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from lowrung.config.schema import DataConf, LoraConf, ModelConf, TrainConf
from lowrung.finetune import preflight
from lowrung.finetune.data.prepared import Prepared
from lowrung.finetune.found import Subject
from lowrung.finetune.models import pretrained
from tests import training
from tests.sources import pairs, write_rows


@pytest.fixture
def check(tmp_path):
    def check(*, base=None, lora=None, train=None, weights=True, **task):
        data = {"name": "number_words", "train_size": 8, "eval_size": 4, "max_length": 128}
        subject = Subject(
            base=ModelConf(**{"path": "embedded:tiny", **(base or {})}),
            data=DataConf(**{**data, **task}),
            store=tmp_path / "runs",
            adapters=[LoraConf(**{"r": 4, "alpha": 8.0, **(lora or {})})],
            trains=[TrainConf(**{**training.TRAIN, **(train or {})})],
            weights=weights,
        )
        return preflight.check(subject)

    return check


def test_a_sound_config_has_fingerprints_and_no_problems(check):
    found = check()
    assert (found.problems, found.notes) == ((), ())
    assert found.model_fingerprint == pretrained.fingerprint(pretrained.locate("embedded:tiny"))
    assert [(split.context, split.rows) for split in found.splits] == [("training", 8), ("evaluation", 4)]
    assert len(Prepared.load(found.data_folder).train) == 8


@pytest.mark.slow
def test_a_template_that_ends_no_answer_is_named(check, tmp_path):
    shutil.copytree(pretrained.locate("embedded:tiny"), tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    )
    (note,) = check(base={"path": str(tmp_path / "base")}).notes
    assert note.startswith("the chat template writes nothing after an answer, which does not tell where it ends")


@pytest.mark.slow
def test_what_goes_to_trl_is_checked_with_the_rest(check):
    found = check(max_length=4096, train={"sft": {"output_dir": "x"}})
    assert [problem.split()[0] for problem in found.problems] == ["train.sft.output_dir", "data.max_length"]
    (problem,) = check(train={"lr_scheduler_type": "cosine_with_min_lr"}).problems
    assert problem.startswith("train.sft.lr_scheduler_kwargs must be what cosine_with_min_lr takes")
    (note,) = check(train={"sft": {"warmup_steps": 4}, "warmup_ratio": 0.1}).notes
    assert note == "train.sft.warmup_steps=4 takes the part of train.warmup_ratio=0.1"


@pytest.mark.slow
def test_a_local_folder_is_the_same_model_under_another_name(check, tmp_path):
    shutil.copytree(pretrained.locate("embedded:tiny"), tmp_path / "my model")
    found = check(base={"path": str(tmp_path / "my model")})
    assert found.problems == ()
    assert found.model_fingerprint == check().model_fingerprint


@pytest.mark.slow
def test_all_problems_come_at_once(check):
    problems = check(
        lora={"target_modules": ["q_proj", "c_attn", "lm_head"]},
        max_length=4096,
        train_size=200_000,
        metrics=["nowhere.to_be_found"],
    ).problems
    assert [problem.split()[0] for problem in problems] == [
        "data.metrics",
        "lora.target_modules",
        "lora.target_modules",
        "data.max_length",
        "data.train_size",
    ]
    assert problems[1:4] == (
        "lora.target_modules must not name the head, lm_head, which SFTTrainer refuses. Train it whole:"
        " 'lora.modules_to_save=[lm_head]'.",
        "lora.target_modules must name linear modules of the model, but it has no c_attn."
        " It has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj.",
        "data.max_length must be at most the model's context of 1024, but is 4096.",
    )


@pytest.mark.slow
@pytest.mark.parametrize("names", [["q_proj"], ["self_attn.q_proj", "mlp.up_proj"], "attention", ".*q_proj"])
def test_modules_may_be_named_in_many_ways(check, names):
    assert check(lora={"target_modules": names}).problems == ()


@pytest.mark.slow
def test_without_a_chat_template_pairs_are_written_plainly_and_chats_refused(check, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(pretrained.locate("embedded:tiny"), folder)
    (folder / "chat_template.jinja").unlink()
    base = {"path": str(folder)}
    assert check(base=base).problems == ()
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path = write_rows(tmp_path / "chats.jsonl", [{"messages": chat}] * 8)
    (problem,) = check(base=base, name="file", path=path, train_size=None, eval_size=1).problems
    assert "must have a tokenizer with a chat template, since the data holds messages" in problem


@pytest.mark.slow
def test_a_missing_folder_does_not_hide_a_problem_of_the_data(check):
    assert len(check(base={"path": "./nowhere"}, train_size=200_000).problems) == 2


def test_a_prompt_longer_than_the_context_is_found_before_anything_runs(check, tmp_path):
    path = write_rows(tmp_path / "long.jsonl", [*pairs(5), {"prompt": "x" * 120, "completion": "y"}])
    (problem,) = check(name="file", path=path, train_size=None, eval_size=2).problems
    assert "data.max_length must leave room for what is learnt, but is 128" in problem


@pytest.mark.slow
def test_notes_count_what_was_dropped_and_cut(check, tmp_path):
    rows = [*pairs(6) * 2, {"prompt": "?", "completion": "y" * 180}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    held_out = write_rows(tmp_path / "eval.jsonl", pairs(1))
    found = check(name="file", path=path, eval_path=held_out, train_size=None, eval_size=None)
    assert [note.split(",")[0] for note in found.notes] == [
        "2 training examples are among the held-out ones too",
        "1 of 11 training examples are longer than data.max_length and were cut; they lost 74 tokens",
    ]


def test_metrics_need_prompts(check, tmp_path):
    path = write_rows(tmp_path / "texts.jsonl", [{"text": f"Once {n}"} for n in range(6)])
    (problem,) = check(name="file", path=path, train_size=None, eval_size=2, metrics=["exact_match"]).problems
    assert problem.startswith("data.metrics must be empty for data without prompts")


@pytest.mark.slow
def test_the_same_data_is_tokenised_once(check):
    first = check().data_folder
    stamp = (Path(first) / "facts.json").stat().st_mtime_ns
    assert check(lora={"r": 8}).data_folder == first
    assert (Path(first) / "facts.json").stat().st_mtime_ns == stamp
    assert check(max_length=129).data_folder != first


@pytest.mark.slow
def test_added_tokens_make_other_tokens_of_the_same_data(check):
    plain = check()
    found = check(base={"added_tokens": ["Write", "words"]})
    assert (found.problems, found.notes) == ((), ())
    assert found.model_fingerprint == plain.model_fingerprint
    assert found.data_folder != plain.data_folder
    assert check(base={"added_tokens": ["words", "Write"]}).data_folder != found.data_folder
    one, other = (Prepared.load(where).train["input_ids"][0] for where in (plain.data_folder, found.data_folder))
    assert 259 in other
    assert len(other) < len(one)


@pytest.mark.slow
def test_a_note_names_added_tokens_that_no_example_holds(check):
    assert check(base={"added_tokens": ["<think>", "Write", "</think>"]}).notes == (
        "no training example holds <think>, </think>, so nothing is learnt of these added tokens",
    )


@pytest.mark.slow
def test_added_tokens_that_cannot_be_trained_as_asked_are_found(check):
    (known,) = check(base={"added_tokens": ["a"]}).problems
    assert known.startswith("model.added_tokens must be new to the model, but embedded:tiny has a already.")
    (half,) = check(
        base={"path": "embedded:tiny_gpt2", "added_tokens": ["Write"]}, lora={"modules_to_save": ["wte"]}
    ).problems
    assert half.startswith("model.added_tokens need rows in the embedding and in the head that is tied to it")
    assert check(base={"added_tokens": ["Write"]}, lora={"trainable_token_indices": [259]}).problems == ()
    (beyond,) = check(base={"added_tokens": ["Write"]}, lora={"trainable_token_indices": [260]}).problems
    assert "0 to 259, but holds 260" in beyond


@pytest.mark.slow
def test_what_the_weights_lack_and_what_peft_would_refuse_is_found(check, copy):
    owned, unknown = check(lora={"peft": {"r": 8, "exclude_module": ["q_proj"]}}).problems
    assert owned == "lora.peft.r must be left out: lora.r sets it. Use lora.r."
    assert unknown.startswith(f"lora.peft.exclude_module is not a field of LoraConfig (peft {version('peft')}).")
    assert unknown.endswith("Did you mean exclude_modules?")
    (refusal,) = check(lora={"use_dora": True, "peft": {"velora_config": {"num_groups": 8}}}).problems
    assert refusal.startswith("PEFT refuses these settings of lora: ")
    held = load_file(copy / "model.safetensors")
    save_file({**held, "visual.weight": held["lm_head.weight"].clone()}, copy / "model.safetensors", {"format": "pt"})
    assert check(base={"path": str(copy)}).notes == (
        f"1 tensors in {copy} are not of the model, and are left out: visual.weight",
    )
    del held["lm_head.weight"]
    save_file(held, copy / "model.safetensors", {"format": "pt"})
    (absent,) = check(base={"path": str(copy)}).problems
    assert f"1 of 21 are not in {copy}: lm_head.weight" in absent


class TestBadRows:
    """Rows that cannot be learnt."""

    @pytest.fixture
    def path(self, tmp_path):
        rows = [*pairs(6), {"prompt": "?", "completion": ""}, {"prompt": "x" * 200, "completion": "y"}]
        return write_rows(tmp_path / "rows.jsonl", rows)

    def test_they_are_refused_by_default(self, check, path):
        (problem,) = check(name="file", path=path, train_size=None, eval_size=2).problems
        assert (
            problem == f"data.path={path}, line 7: completion must not be empty. data.on_bad_rows=drop leaves it out."
        )

    @pytest.mark.slow
    def test_they_are_left_out_and_named_on_request(self, check, path, tmp_path):
        settings = {"name": "file", "train_size": None, "eval_size": 2, "on_bad_rows": "drop"}
        found = check(path=path, **settings)
        assert found.problems == ()
        (note,) = found.notes
        assert note.startswith(f"data.on_bad_rows=drop left 2 rows out: data.path={path}, line 7: completion must not")
        assert f"; data.path={path}, line 8: data.max_length must leave room" in note
        rows = Prepared.load(found.data_folder)
        assert sum(split.rows for split in found.splits) == len(rows.train) + len(rows.eval) == 6
        assert rows.measurements == {"data/dropped_rows": 2.0}

    @pytest.mark.slow
    def test_what_is_left_identifies_the_data(self, check, path, tmp_path):
        settings = {
            "name": "file",
            "train_size": None,
            "eval_path": write_rows(tmp_path / "eval.jsonl", pairs(2, "held")),
        }
        good = write_rows(tmp_path / "good.jsonl", pairs(6))
        found = check(path=path, eval_size=None, on_bad_rows="drop", **settings)
        clean = check(path=good, eval_size=None, **settings)
        assert (found.problems, clean.problems) == ((), ())
        trained = [sorted(Prepared.load(each.data_folder).train["input_ids"]) for each in (found, clean)]
        assert trained[0] == trained[1]

    def test_if_nothing_is_left_it_is_refused(self, check, tmp_path):
        path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "x" * 200, "completion": f"{n}"} for n in range(4)])
        problems = check(name="file", path=path, train_size=None, eval_size=1, on_bad_rows="drop").problems
        assert problems[0] == "There must be examples to train on, but none is left."


@pytest.mark.slow
class TestDate:
    """A template that asks for the time."""

    @pytest.fixture
    def dated(self, tmp_path):
        folder = tmp_path / "dated"
        shutil.copytree(pretrained.locate("embedded:tiny"), folder)
        template = folder / "chat_template.jinja"
        template.write_text("{{ 'Today is ' + strftime_now('%d %b %Y %H:%M:%S.%f') + '\\n' }}" + template.read_text())
        return {"path": str(folder)}

    def test_it_is_the_day_of_the_setting_and_told(self, check, dated):
        found = check(base=dated, max_length=256)
        assert found.notes == ("the chat template asks for the date: in all examples it is data.date=2026-01-01",)
        tokenizer = pretrained.load_tokenizer(Path(dated["path"]))
        text = str(tokenizer.decode(Prepared.load(found.data_folder).train["input_ids"][0]))
        assert text.startswith("Today is 01 Jan 2026 00:00:00.000000\n")

    def test_another_day_is_other_data(self, check, dated):
        fingerprints = {check(base=dated, date=day).data_fingerprint for day in ("2026-01-01", "2026-01-02")}
        assert len(fingerprints) == 2

    def test_a_template_that_does_not_ask_makes_the_same_data_on_each_day(self, check):
        fingerprints = {check(date=day).data_fingerprint for day in ("2026-01-01", "2026-01-02")}
        assert len(fingerprints) == 1


def test_variables_that_the_template_does_not_read_are_refused(check):
    (problem,) = check(chat_template_kwargs={"enable_thinking": True}).problems
    assert "it does not read 'enable_thinking'; it reads none" in problem


@pytest.mark.slow
def test_data_is_what_is_written_of_it(check, tmp_path):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    def fingerprint(name, key):
        path = write_rows(tmp_path / f"{name}.jsonl", [{"messages": [*chat[:1], {**chat[1], **key}]}] * 4)
        held_out = write_rows(tmp_path / "eval.jsonl", pairs(2))
        found = check(name="file", path=path, eval_path=held_out, train_size=None, eval_size=None)
        assert found.problems == ()
        return found.data_fingerprint

    assert fingerprint("plain", {}) == fingerprint("tagged", {"mood": "glad"})


@pytest.fixture
def described(tmp_path):
    """A model's folder as it is without weights, with a tokenizer or without."""

    def described(*, tokenizer: bool) -> dict[str, str]:
        folder = tmp_path / ("with a tokenizer" if tokenizer else "config alone")
        left_out = ["*.safetensors", *([] if tokenizer else ["*token*", "*.jinja"])]
        ignore = shutil.ignore_patterns(*left_out)
        shutil.copytree(pretrained.locate("embedded:tiny"), folder, ignore=ignore, dirs_exist_ok=True)
        return {"path": str(folder)}

    return described


@pytest.mark.slow
def test_a_plan_needs_no_weights(check, described):
    whole, found = check(), check(base=described(tokenizer=True), weights=False)
    assert found.problems == found.notes == ()
    assert (found.rows, found.splits[0].rows, found.is_read) == (whole.rows, 8, False)
    assert (found.base.parameters, found.base.stored_bytes) == (whole.base.parameters, 0)
    (problem,) = check(base=described(tokenizer=True) | {"dtype": "bfloat16"}).problems
    assert problem.startswith("model.path must have its weights as safetensors, but")


@pytest.mark.slow
def test_a_plan_without_a_tokenizer_says_what_it_took_for_the_rows(check, described):
    found = check(base=described(tokenizer=False) | {"added_tokens": ["<new>"]}, weights=False)
    assert found.problems == ()
    assert [(rows.rows, rows.mean_tokens) for rows in found.rows] == [(8, 128), (4, 128)]
    assert found.rows[0].guesses[0].startswith("each row is taken as data.max_length=128 tokens")
