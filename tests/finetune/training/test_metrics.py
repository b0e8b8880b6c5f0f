import builtins
import importlib.util
import math
import multiprocessing
import os
import sys
import textwrap

import pytest

from lowrung.config import schema
from lowrung.errors import UsageError
from lowrung.finetune.training import metrics, user_metrics

PREDICTIONS = ["the cat sat on the mat", " four ", "a dog"]
REFERENCES = ["the cat is on the mat", "four", "no animals here"]


@pytest.fixture
def module(monkeypatch, tmp_path):
    """Writes a module of the user's into the working folder; forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    names = set(sys.modules)

    def write(source, name="scores_of_mine"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    yield write
    for name in set(sys.modules) - names:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def no_metric_packages(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("rouge_score", "sacrebleu") else find(name, *rest),
    )


class TestScores:
    def test_exact_match_is_a_share_and_spares_white_space(self):
        assert metrics.score(["exact_match"], PREDICTIONS, REFERENCES).metrics == {"exact_match": 1 / 3}

    @pytest.mark.slow
    def test_rouge_is_the_mean_f1(self):
        """Counted by hand: 5 of 6 words and 3 of 5 pairs are shared in the first, all in the second, none after."""
        scores = metrics.score(["rouge"], PREDICTIONS, REFERENCES).metrics
        assert scores == pytest.approx({"rouge1": (5 / 6 + 1) / 3, "rouge2": (3 / 5) / 3, "rougeL": (5 / 6 + 1) / 3})

    @pytest.mark.slow
    def test_rouge_compares_stems(self):
        assert metrics.score(["rouge"], ["returns lists"], ["return list"]).metrics["rouge1"] == 1

    def test_each_answer_has_its_scores_where_the_score_is_their_mean(self):
        scored = metrics.score(["exact_match", "bleu"], PREDICTIONS, REFERENCES)
        assert scored.each == {"exact_match": [0, 1, 0]}
        assert scored.metrics.keys() == {"exact_match", "bleu"}

    def test_bleu_is_the_corpus_score(self):
        """By the formula: precisions 4/5, 3/4, 2/3 and 1/2, and a brevity penalty of exp(1 - 6/5)."""
        scores = metrics.score(["bleu"], ["a b c d x"], ["a b c d e f"]).metrics
        expected = 100 * math.exp(1 - 6 / 5) * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4)
        assert scores == pytest.approx({"bleu": expected})

    @pytest.mark.slow
    def test_equal_texts_get_the_highest_scores(self):
        text = ["one two three four five"]
        scores = metrics.score(list(schema.METRICS), text, text).metrics
        assert scores == pytest.approx({"exact_match": 1, "rouge1": 1, "rouge2": 1, "rougeL": 1, "bleu": 100})

    def test_empty_predictions_score_0(self):
        scores = metrics.score(list(schema.METRICS), ["", ""], ["one", "two"]).metrics
        assert set(scores.values()) == {0.0}

    def test_the_keys_are_those_of_the_schema(self):
        names = [*schema.METRICS, "operator.countOf"]
        expected = [key for name in names for key in schema.metric_names(name)]
        assert list(metrics.score(names, ["x"], ["x"]).metrics) == expected

    def test_nothing_is_scored_without_names(self):
        assert metrics.score([], ["x"], ["x"]).metrics == {}


class TestFunctionsOfTheUser:
    def test_one_in_the_working_folder_is_found_and_called(self, module):
        name = module(
            """
            def shared(predictions, references):
                assert isinstance(predictions, list) and isinstance(references, list)
                return sum(p == r for p, r in zip(predictions, references))
            """
        )
        before = list(sys.path)
        assert metrics.problems([f"{name}.shared"]) == []
        assert metrics.score([f"{name}.shared"], ["a", "b"], ("a", "c")).metrics == {"shared": 1.0}
        assert sys.path == before

    def test_one_in_a_package_is_found(self, module, tmp_path):
        (tmp_path / "package_of_mine").mkdir()
        module("def length(p, r): return len(p)", "package_of_mine/inner")
        assert metrics.score(["package_of_mine.inner.length"], ["a", "b"], ["a", "c"]).metrics == {"length": 2.0}

    def test_it_may_import_its_neighbours_when_it_runs(self, module):
        module("VALUE = 0.5", "neighbour_of_mine")
        name = module(
            """
            def late(predictions, references):
                import neighbour_of_mine
                return neighbour_of_mine.VALUE
            """
        )
        assert metrics.score([f"{name}.late"], ["a"], ["a"]).metrics == {"late": 0.5}

    def test_one_does_not_change_the_texts_of_the_next(self, module):
        name = module(
            """
            def first(predictions, references):
                predictions.clear()
                return 0

            def second(predictions, references):
                return len(predictions)
            """
        )
        assert metrics.score([f"{name}.first", f"{name}.second"], ["a"], ["a"]).metrics == {"first": 0.0, "second": 1.0}

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("3", 3.0),
            ("True", 1.0),
            ("__import__('numpy').float32(0.5)", 0.5),
            ("__import__('torch').tensor(0.5)", 0.5),
        ],
    )
    def test_numbers_of_any_library_are_taken(self, module, value, expected):
        name = module(f"def value(p, r): return {value}")
        assert metrics.score([f"{name}.value"], ["a"], ["a"]).metrics == {"value": expected}

    @pytest.mark.parametrize("value", ["[1, 0.5]", "(1, 0.5)", "__import__('numpy').array([1, 0.5])"])
    def test_a_number_for_each_prediction_is_taken(self, module, value):
        name = module(f"def value(p, r): return {value}")
        scored = metrics.score([f"{name}.value"], ["a", "b"], ["a", "c"])
        assert scored == metrics.Answered({"value": 0.75}, {"value": [1, 0.5]})

    @pytest.mark.parametrize(
        "value",
        [
            "None",
            "'0.5'",
            "[0.5, 0.5]",
            "{'f1': 1}",
            "float('nan')",
            "float('inf')",
            "10**400",
            "1j",
            "__import__('torch').ones(2)",
        ],
    )
    def test_anything_else_is_refused(self, module, value):
        name = module(f"def value(p, r): return {value}")
        with pytest.raises(UsageError, match=r"\(predictions, references\) -> number.*scores_of_mine.value returned"):
            metrics.score([f"{name}.value"], ["a"], ["a"])

    def test_the_message_holds_the_refused_value(self, module):
        name = module("def value(p, r): return {'f1': 1.0}")
        with pytest.raises(UsageError, match=r"returned \{'f1': 1.0\}, which is not a finite number"):
            metrics.score([f"{name}.value"], ["a"], ["a"])

    def test_all_functions_that_raise_are_named_with_the_first_traceback(self, module):
        name = module(
            """
            def divides(predictions, references):
                return 1 / 0

            def exits(predictions, references):
                raise SystemExit(3)
            """
        )
        with pytest.raises(UsageError) as caught:
            metrics.score([f"{name}.divides", f"{name}.exits"], ["a"], ["a"])
        first, second = caught.value.problems
        assert "scores_of_mine.divides raised ZeroDivisionError: division by zero" in first
        assert "scores_of_mine.exits raised SystemExit: 3" in second
        assert isinstance(caught.value.__cause__, UsageError)
        assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)

    def test_it_works_in_a_forked_child_that_started_elsewhere(self, module, monkeypatch, tmp_path):
        name = module("def half(p, r): return 0.5")
        monkeypatch.chdir("/")  # the fork server's folder
        monkeypatch.setattr(sys, "path", ["/nowhere", *sys.path[1:]])
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()

        def child():
            os.chdir(tmp_path)
            results.put((metrics.problems([f"{name}.half"]), metrics.score([f"{name}.half"], ["a"], ["a"]).metrics))

        process = context.Process(target=child)
        process.start()
        process.join()
        assert process.exitcode == 0
        assert results.get() == ([], {"half": 0.5})


class TestProblems:
    def test_sound_metrics_have_none(self):
        assert metrics.problems([*schema.METRICS, *schema.METRICS]) == []

    def test_a_missing_package_is_named_with_the_command_that_installs_it(self, no_metric_packages):
        remedy = ".venv/bin/pip install -c constraints.txt -e '.[metrics]'"
        rouge, bleu = metrics.problems(["rouge", "bleu", "exact_match"])
        assert "data.metrics=rouge" in rouge
        assert "rouge-score" in rouge
        assert remedy in rouge
        assert "data.metrics=bleu" in bleu
        assert "sacrebleu" in bleu
        assert remedy in bleu

    def test_packages_that_are_not_needed_may_be_missing(self, no_metric_packages, monkeypatch):
        imported = builtins.__import__

        def refuse(name, *rest):
            assert name.split(".")[0] not in ("rouge_score", "sacrebleu")
            return imported(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)
        assert metrics.problems(["exact_match"]) == []
        assert metrics.score(["exact_match"], ["a"], ["a"]).metrics == {"exact_match": 1}

    @pytest.mark.parametrize(
        ("source", "cause"),
        [
            ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
            ("def broken(:", "SyntaxError: invalid syntax"),
            ("raise ValueError('first line\\nsecond line')", "ValueError: first line"),
            ("raise SystemExit('enough')", "SystemExit: enough"),
        ],
    )
    def test_a_module_that_cannot_be_imported_is_refused_with_its_cause(self, module, tmp_path, source, cause):
        name = module(source)
        (problem,) = metrics.problems([f"{name}.score"])
        assert "'scores_of_mine' cannot be imported" in problem
        assert cause in problem
        assert str(tmp_path) in problem
        assert "\n" not in problem

    def test_a_module_that_is_not_there(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        (problem,) = metrics.problems(["no_such_module_of_mine.score"])
        assert "ModuleNotFoundError" in problem
        assert str(tmp_path) in problem

    def test_a_function_that_is_not_there(self, module, tmp_path):
        name = module("def similarity(p, r): return 1")
        (problem,) = metrics.problems([f"{name}.similarty"])
        assert "has no 'similarty'. Did you mean similarity?" in problem
        assert str(tmp_path / "scores_of_mine.py") in problem

    def test_names_that_are_no_functions_are_refused(self, module):
        name = module("VALUE = 3")
        (problem,) = metrics.problems([f"{name}.VALUE"])
        assert "`(predictions, references) -> number`" in problem
        assert "scores_of_mine.VALUE is 3" in problem

    @pytest.mark.parametrize("arguments", ["predictions", "p, r, more", "*, predictions, references"])
    def test_functions_that_cannot_take_two_lists_are_refused(self, module, arguments):
        name = module(f"def score({arguments}): return 1")
        (problem,) = metrics.problems([f"{name}.score"])
        assert "`(predictions, references) -> number`" in problem
        assert f"in ({arguments})" in problem

    @pytest.mark.parametrize("arguments", ["p, r, more=1", "*texts", "p, r, **more"])
    def test_functions_that_can_take_two_lists_are_accepted(self, module, arguments):
        name = module(f"def score({arguments}): return 1")
        assert metrics.problems([f"{name}.score"]) == []

    @pytest.mark.parametrize(
        ("names", "key"),
        [
            (["scores_of_mine.bleu", "bleu"], "eval/bleu"),
            (["scores_of_mine.rougeL", "rouge"], "eval/rougeL"),
            (["scores_of_mine.loss"], "eval/loss"),
            (["scores_of_mine.score", "others_of_mine.score"], "eval/score"),
        ],
    )
    def test_two_scores_of_one_name(self, module, names, key):
        for name in ("scores_of_mine", "others_of_mine"):
            module("def bleu(p, r): return 1\nrougeL = loss = score = bleu", name)
        (problem,) = metrics.problems(names)
        assert f"{key} would be recorded twice" in problem

    def test_all_problems_come_at_once(self, module, no_metric_packages):
        name = module("VALUE = 3")
        names = ["rouge", "bleu", f"{name}.VALUE", f"{name}.missing", "no_such_module_of_mine.score"]
        assert len(metrics.problems(names)) == 5


class TestFingerprint:
    def test_lowrung_s_own_have_none(self):
        assert user_metrics.fingerprint([]) == ""
        assert user_metrics.fingerprint(schema.METRICS) == ""

    def test_it_follows_the_source_and_nothing_else(self, module, tmp_path):
        name = module("def value(p, r): return 1")
        first = user_metrics.fingerprint(["bleu", f"{name}.value"])
        assert len(first) == 16
        int(first, 16)
        assert user_metrics.fingerprint([f"{name}.value", "rouge"]) == first
        (tmp_path / f"{name}.py").write_text("def value(p, r): return 2")
        assert user_metrics.fingerprint([f"{name}.value"]) != first

    def test_it_does_not_depend_on_the_folder(self, module, tmp_path, monkeypatch):
        name = module("def value(p, r): return 1")
        first = user_metrics.fingerprint([f"{name}.value"])
        del sys.modules[name]
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / f"{name}.py").rename(tmp_path / "elsewhere" / f"{name}.py")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert user_metrics.fingerprint([f"{name}.value"]) == first

    def test_it_covers_the_module_that_defines_a_function(self, module, tmp_path):
        module("def value(p, r): return 1", "defined_of_mine")
        name = module("from defined_of_mine import value")
        first = user_metrics.fingerprint([f"{name}.value"])
        (tmp_path / "defined_of_mine.py").write_text("def value(p, r): return 2")
        assert user_metrics.fingerprint([f"{name}.value"]) != first

    def test_built_in_functions_have_one(self):
        assert len(user_metrics.fingerprint(["math.dist"])) == 16
